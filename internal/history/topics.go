package history

import (
	"math"
	"time"
)

// A Merge says how a message may become one with the message before it, if its consumer has not been sent that yet.
type Merge int

const (
	// MergeNone means that it stays alone.
	MergeNone Merge = iota
	// MergeReplace means that it takes the place of the one before it, which then is neither delivered nor missed.
	MergeReplace
	// MergeAppend means that both become one text.
	MergeAppend
)

// Published is what the reply to a publish says of the topic's members: how many there were, how many have taken the message, and
// how many had no room for it.
type Published struct {
	Members, Accepted, Full int
	// Held says that the publish waited for members without room. Members that went meanwhile are neither accepted nor full.
	Held bool
}

// A Span is the time of a call, until its caller knew the outcome.
type Span struct{ Start, End time.Duration }

// before reports whether the call had ended when another one began.
func (s Span) before(other Span) bool { return s.End < other.Start }

// A Stay is a channel's membership of a topic.
type Stay struct {
	Channel, Topic string
	// Last says that the join asked for all that the topic keeps.
	Last bool
	// Join and Leave are its beginning and its end. A stay without an end has a Leave that never starts.
	Join, Leave Span
}

// never is when a call ends whose outcome nobody has learned, and when one starts that nobody has made.
const never = time.Duration(math.MaxInt64)

// covers reports whether the channel was a member from the start of a call to its end.
func (s Stay) covers(call Span) bool { return s.Join.before(call) && call.before(s.Leave) }

// touches reports whether the channel may have been a member at some time of a call.
func (s Stay) touches(call Span) bool { return !call.before(s.Join) && !s.Leave.before(call) }

// A Close is the end of a topic.
type Close struct {
	Topic, As string
	Span
}

// KnowsTopics records that the server tells a channel what it has missed, and when a topic ends.
func (r *Recorder) KnowsTopics(channel string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.KnowsTopics[channel] = true
}

// Join runs f, which makes a channel a member of topics. It records the memberships. If f fails, nobody knows whether they began.
func (r *Recorder) Join(channel string, topics []string, last bool, f func() error) error {
	join, err := r.span(f)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, topic := range topics {
		stay := Stay{Channel: channel, Topic: topic, Last: last, Join: join, Leave: Span{never, never}}
		r.history.Stays = append(r.history.Stays, stay)
	}
	return err
}

// Leave runs f, which ends a channel's membership of a topic, or of all topics if topic is empty. It records that. If f fails,
// nobody knows whether they ended.
func (r *Recorder) Leave(channel, topic string, f func() error) error {
	leave, err := r.span(f)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.history.Stays {
		s := &r.history.Stays[i]
		if s.Channel == channel && (s.Topic == topic || topic == "") && s.Leave.Start == never {
			s.Leave = leave
		}
	}
	return err
}

// Close runs f, which closes a topic and returns as what, and records that. If f fails, nobody knows whether the topic is closed.
func (r *Recorder) Close(topic string, f func() (as string, err error)) error {
	var as string
	span, err := r.span(func() (err error) {
		as, err = f()
		return err
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.Closes = append(r.history.Closes, Close{topic, as, span})
	return err
}

// span returns the time of f.
func (r *Recorder) span(f func() error) (Span, error) {
	s := Span{Start: r.Now(), End: never}
	err := f()
	if err == nil {
		s.End = r.Now()
	}
	return s, err
}
