package history

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Check returns what is wrong with a history, in words. It returns nothing if all of this holds:
//
//   - No client has found anything wrong by itself.
//   - Every accepted message was delivered, or its channel was deleted and counted it as undelivered.
//   - No channel counted more messages as undelivered than were written to it.
//   - Every delivered message was written: not only attempts that were refused.
//   - Order: if a producer knew that a message was accepted before another attempt for the same channel began, it was
//     delivered first.
//   - A consumer that drops repeated event ids sees a keyed message once, and any other at most once for each attempt that
//     was not refused.
//   - An event id stands for one message only.
//   - A fault of its channel, or of all, was in progress at some time of every attempt whose outcome is unknown.
//   - What checkTopics says of topics.
func (h History) Check() []string {
	c := newChecker(h)
	c.faults = slices.Clone(h.Wrong)
	c.deliveries()
	c.losses()
	c.counts()
	c.unknowns()
	c.checkTopics()
	return c.faults
}

// A message is what a history has of one value.
type message struct {
	channel, topic, value string // it has either a channel or a topic
	producer              string
	number                int
	keyed                 bool
	merge                 Merge
	start, end            time.Duration  // of all attempts
	attempts              []Write        // that were not refused
	accepted, unknown     int            // attempts
	distinct              map[string]int // event ids delivered, by channel
	refusal               string         // the detail of an attempt that was refused
}

type checker struct {
	History

	messages map[string]*message   // by value
	topics   map[string][]*message // those of each topic, by their start
	stays    map[place][]Stay
	members  map[string][]string   // the channels of each topic, of all times
	lines    map[string][]Delivery // of each channel: the first delivery of each event
	faults   []string
}

// A place is where the order of messages counts: a channel, and in it a topic, or what was written to the channel alone.
type place struct{ channel, topic string }

func newChecker(h History) *checker {
	c := &checker{
		History: h, messages: map[string]*message{}, topics: map[string][]*message{}, stays: map[place][]Stay{},
		members: map[string][]string{}, lines: map[string][]Delivery{},
	}
	for _, w := range h.Writes {
		c.write(w)
	}
	for _, ms := range c.topics {
		slices.SortFunc(ms, func(a, b *message) int { return cmp.Compare(a.start, b.start) })
	}
	for _, s := range h.Stays {
		at := place{s.Channel, s.Topic}
		if c.stays[at] == nil {
			c.members[s.Topic] = append(c.members[s.Topic], s.Channel)
		}
		c.stays[at] = append(c.stays[at], s)
	}
	return c
}

func (c *checker) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Sprintf(format, args...))
}

// write collects the attempts for each message.
func (c *checker) write(w Write) {
	m := c.messages[w.Value]
	if m == nil {
		m = &message{
			channel: w.Channel, topic: w.Topic, value: w.Value, producer: w.Producer, number: w.Number,
			keyed: w.Keyed, merge: w.Merge, start: w.Start, distinct: map[string]int{},
		}
		c.messages[w.Value] = m
		if w.Topic != "" {
			c.topics[w.Topic] = append(c.topics[w.Topic], m)
		}
	}
	m.start, m.end = min(m.start, w.Start), max(m.end, w.End)
	switch w.Outcome {
	case Accepted:
		m.accepted++
	case Unknown:
		m.unknown++
	case Refused:
		m.refusal = w.Detail
		return
	}
	m.attempts = append(m.attempts, w)
}

// values returns the values of a delivered message.
func (d Delivery) values() []string {
	if d.End != "" {
		return nil
	}
	return append([]string{d.Value}, d.Appended...)
}

// same reports whether two deliveries show the same message.
func (d Delivery) same(other Delivery) bool {
	return d.Value == other.Value && slices.Equal(d.Appended, other.Appended) && d.Missed == other.Missed && d.End == other.End
}

// deliveries checks each channel's deliveries: order, repeats, and that none is invented.
func (c *checker) deliveries() {
	byEvent := map[[2]string]Delivery{}
	latest := map[place]*message{} // the delivered message that was begun last
	for _, d := range c.Deliveries {
		event := [2]string{d.Channel, d.EventID}
		if before, repeated := byEvent[event]; repeated && (before.same(d) || !c.returned(d.Channel)) {
			if !before.same(d) {
				c.fault("channel %s: event %s is %q and %q", d.Channel, d.EventID, before.text(), d.text())
			}
			continue
		}
		byEvent[event] = d
		c.lines[d.Channel] = append(c.lines[d.Channel], d)
		for _, value := range d.values() {
			if m := c.messages[value]; m == nil || m.channel != d.Channel && m.topic == "" {
				c.fault("channel %s: %q was delivered, but never written there", d.Channel, value)
			} else {
				c.delivered(d, m, latest)
			}
		}
	}
}

// text returns what a delivery shows, for people.
func (d Delivery) text() string {
	text := fmt.Sprint(d.values())
	if len(d.Appended) == 0 {
		text = d.Value
	}
	if d.Missed > 0 {
		text += fmt.Sprintf(", %d missed", d.Missed)
	}
	return text + d.End
}

// delivered checks the delivery of one message.
func (c *checker) delivered(d Delivery, m *message, latest map[place]*message) {
	at := place{d.Channel, m.topic}
	switch {
	case m.accepted+m.unknown == 0:
		c.fault("channel %s: %q was delivered at %v, but was refused (%v to %v: %s)", d.Channel, m.value, d.At, m.start, m.end, m.refusal)
		return
	case m.topic != "" && !c.mayHave(d.Channel, m):
		c.fault("channel %s: %q of topic %s was delivered at %v, but the channel was no member (%v to %v)",
			d.Channel, m.value, m.topic, d.At, m.start, m.end)
	}
	m.distinct[d.Channel]++
	n := m.distinct[d.Channel]
	if m.topic != "" && c.cameBack(at) {
		return // the kept messages come once more
	}
	if m.topic != "" && m.unknown > 0 {
		latest = map[place]*message{} // an attempt may have had its effect later, so the time says nothing
	}
	if n > 1 && (m.keyed || n > m.accepted+m.unknown) {
		c.fault("channel %s: %q was delivered %d times, with different event ids", d.Channel, m.value, n)
	}
	if n > 1 {
		return // the order says nothing of further copies
	}
	if before := latest[at]; before != nil && m.accepted > 0 && m.end < before.start {
		c.fault("channel %s: %q was delivered after %q, but was accepted %v before that was written",
			d.Channel, m.value, before.value, before.start-m.end)
	}
	if before := latest[at]; before == nil || m.start > before.start {
		latest[at] = m
	}
}

// losses checks that messages that were accepted for a channel were delivered or counted.
func (c *checker) losses() {
	unaccounted := map[string][]*message{} // accepted but not delivered, by channel
	for _, m := range c.messages {
		if m.topic == "" && m.accepted > 0 && m.distinct[m.channel] == 0 {
			unaccounted[m.channel] = append(unaccounted[m.channel], m)
		}
	}
	for channel, lost := range unaccounted {
		if len(lost) <= c.Undelivered[channel] {
			continue
		}
		slices.SortFunc(lost, func(a, b *message) int { return cmp.Compare(a.start, b.start) })
		c.fault("channel %s: %d accepted messages were not delivered, and %d were counted as undelivered; the first is %q, written %v to %v",
			channel, len(lost), c.Undelivered[channel], lost[0].value, lost[0].start, lost[0].end)
	}
}

// counts checks that no channel counted more messages as undelivered than may have been in it.
func (c *checker) counts() {
	atMost := map[string]int{}
	for _, m := range c.messages {
		if m.topic == "" {
			atMost[m.channel] += m.writes()
		}
	}
	for channel, n := range c.Undelivered {
		if c.returned(channel) {
			continue // each time, it got again what the topic keeps
		}
		written := atMost[channel] + c.ends(channel)
		for _, ms := range c.topics {
			for _, m := range ms {
				if c.mayHave(channel, m) {
					written += m.writes()
				}
			}
		}
		if n > written {
			c.fault("channel %s: %d messages were counted as undelivered, but only %d were written", channel, n, written)
		}
	}
}

// writes returns how often a channel may have got the message.
func (m *message) writes() int {
	if m.keyed {
		return min(1, m.accepted+m.unknown)
	}
	return m.accepted + m.unknown
}

// unknowns checks that a fault explains each unknown outcome.
func (c *checker) unknowns() {
	for _, w := range c.Writes {
		explained := func(f Fault) bool {
			return f.Start <= w.End && w.Start <= f.End && (f.Channel == "" || f.Channel == w.Channel+w.Topic)
		}
		if w.Outcome == Unknown && !slices.ContainsFunc(c.Faults, explained) {
			c.fault("channel %s: nothing explains why the outcome of %q is unknown (%v to %v: %s)",
				w.Channel+w.Topic, w.Value, w.Start, w.End, w.Detail)
		}
	}
}
