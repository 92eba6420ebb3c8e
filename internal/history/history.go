// Package history records what producers and consumers of a site did and saw, and checks that it fits together: every
// accepted message was delivered or counted, none was invented, none was out of order. The idea is Jepsen's: clients run
// against servers that tests kill, cut off and replace. What the clients saw must be explainable all the same.
//
// The package knows nothing of HTTP or of Megaphone's Brokers. Package workload has clients that record.
package history

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// An Outcome is what a producer knows about an attempt to write.
type Outcome int

const (
	// Unknown means that the producer got no answer, or one that says that the outcome is unknown.
	Unknown Outcome = iota
	// Accepted means that the server said so.
	Accepted
	// Refused means that the server said that the message is in no channel.
	Refused
)

func (o Outcome) String() string { return [...]string{"unknown", "accepted", "refused"}[o] }

// A Write is one attempt to write a message. A producer that repeats a write makes several attempts with equal values.
type Write struct {
	Channel string
	// Topic, if it is set, is where the message was published. Then Channel is empty.
	Topic string
	// Producer and Number say more of the order, if Producer is set: messages of one producer to one topic are in the order of
	// their numbers.
	Producer string
	Number   int
	// Value identifies the message. No two messages of a history have equal values.
	Value string
	// Keyed says that the message has an idempotency key, so that attempts may be repeated.
	Keyed bool
	// Merge says how a published message may be merged with the one before it of the same producer.
	Merge Merge
	// Published is what the reply to a publish says. It is nil where the reply does not say it.
	Published *Published
	// Start and End are when the attempt began, and when the producer knew its outcome.
	Start, End time.Duration
	Outcome    Outcome
	// Detail says more of an outcome, for people.
	Detail string
}

// A Delivery is a message that a consumer received. Deliveries of one channel are in the order in which its consumer
// received them, repeats included.
type Delivery struct {
	Channel string
	EventID string
	Value   string
	// Appended are the values of the messages that were appended to it, in their order.
	Appended []string
	// Missed is how many messages of topics the channel has missed before it.
	Missed int
	// End is how a topic ended, if the message tells that. Then Value is the name of the topic.
	End string
	At  time.Duration
}

// A Fault is a time during which a test disturbs the servers, or one producer. It explains why outcomes are unknown.
type Fault struct {
	Name       string
	Channel    string // the only channel, or topic, whose outcomes it explains; if empty, it explains those of all
	Start, End time.Duration
}

// A History is what happened in a test. Times count from its start.
type History struct {
	Writes     []Write
	Deliveries []Delivery
	Faults     []Fault
	// Undelivered is how many messages the server counted as undelivered when it deleted a channel.
	Undelivered map[string]int
	// Stays are the memberships of topics, and Closes the ends of topics.
	Stays  []Stay
	Closes []Close
	// Wrong is what clients have found wrong by themselves, in words.
	Wrong []string
	// KnowsTopics has the channels that are told what they have missed, and when a topic ends.
	KnowsTopics map[string]bool
}

// A Recorder collects a history. Its methods may be called by many goroutines at once.
type Recorder struct {
	start time.Time

	mu        sync.Mutex
	history   History
	missing   map[string]map[string]struct{} // by channel, the values that were accepted and not delivered
	delivered map[string]struct{}            // the values that were delivered
	accepted  int                            // attempts
}

// NewRecorder returns an empty recorder. Its time starts now.
func NewRecorder() *Recorder {
	return &Recorder{
		start:     time.Now(),
		history:   History{Undelivered: map[string]int{}, KnowsTopics: map[string]bool{}},
		missing:   map[string]map[string]struct{}{},
		delivered: map[string]struct{}{},
	}
}

// Now returns the time of the history. It is monotonic.
func (r *Recorder) Now() time.Duration { return time.Since(r.start) }

// Write records an attempt. It has ended now, unless it has an End.
func (r *Recorder) Write(w Write) {
	if w.End == 0 {
		w.End = r.Now()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.Writes = append(r.history.Writes, w)
	if w.Outcome == Accepted {
		r.accepted++
	}
	if _, ok := r.delivered[w.Value]; !ok && w.Outcome == Accepted && w.Topic == "" {
		if r.missing[w.Channel] == nil {
			r.missing[w.Channel] = map[string]struct{}{}
		}
		r.missing[w.Channel][w.Value] = struct{}{}
	}
}

// Deliver records a message that a consumer has received now.
func (r *Recorder) Deliver(d Delivery) {
	d.At = r.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.Deliveries = append(r.history.Deliveries, d)
	r.delivered[d.Value] = struct{}{}
	delete(r.missing[d.Channel], d.Value)
}

// Accepted returns how many attempts were accepted.
func (r *Recorder) Accepted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.accepted
}

// Missing returns how many accepted messages were not delivered yet. Those of deleted channels and of topics do not count.
func (r *Recorder) Missing() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for channel, values := range r.missing {
		if _, deleted := r.history.Undelivered[channel]; !deleted {
			n += len(values)
		}
	}
	return n
}

// Wrong records that a client has found something wrong by itself.
func (r *Recorder) Wrong(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.Wrong = append(r.history.Wrong, fmt.Sprintf(format, args...))
}

// Delete records that the server has deleted a channel, at some time until now, and counted messages in it as undelivered. Its
// memberships have ended by then.
func (r *Recorder) Delete(channel string, undelivered int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.Undelivered[channel] += undelivered
	for i := range r.history.Stays {
		s := &r.history.Stays[i]
		if s.Channel == channel && s.Leave.End == never { // it may have tried to leave since then
			s.Leave = Span{s.Join.Start, r.Now()}
		}
	}
}

// Fault records a fault of all channels that lasts while f runs, and then for some time more, until its effects are over.
func (r *Recorder) Fault(name string, after time.Duration, f func()) {
	r.fault(Fault{Name: name}, after, f)
}

// ChannelFault records a fault of one channel that lasts while f runs.
func (r *Recorder) ChannelFault(channel, name string, f func()) {
	r.fault(Fault{Name: name, Channel: channel}, 0, f)
}

func (r *Recorder) fault(fault Fault, after time.Duration, f func()) {
	fault.Start = r.Now()
	f()
	r.mu.Lock()
	defer r.mu.Unlock()
	fault.End = r.Now() + after
	r.history.Faults = append(r.history.Faults, fault)
}

// History returns a copy of what was recorded until now.
func (r *Recorder) History() History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return History{
		Writes:      slices.Clone(r.history.Writes),
		Deliveries:  slices.Clone(r.history.Deliveries),
		Faults:      slices.Clone(r.history.Faults),
		Undelivered: maps.Clone(r.history.Undelivered),
		Stays:       slices.Clone(r.history.Stays),
		Closes:      slices.Clone(r.history.Closes),
		Wrong:       slices.Clone(r.history.Wrong),
		KnowsTopics: maps.Clone(r.history.KnowsTopics),
	}
}
