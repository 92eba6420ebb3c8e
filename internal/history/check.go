package history

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Check returns what is wrong with a history, in words. It returns nothing if all of this holds:
//
//   - Every accepted message was delivered, or its channel was deleted and counted it as undelivered.
//   - No channel counted more messages as undelivered than were written to it.
//   - Every delivered message was written: not only attempts that were refused.
//   - Order: if a producer knew that a message was accepted before another attempt for the same channel began, it was
//     delivered first.
//   - A consumer that drops repeated event ids sees a keyed message once, and any other at most once for each attempt that
//     was not refused.
//   - An event id stands for one message only.
//   - A fault of its channel, or of all, was in progress at some time of every attempt whose outcome is unknown.
func (h History) Check() []string {
	c := checker{messages: map[string]*message{}, unaccounted: map[string][]*message{}}
	c.writes(h)
	c.deliveries(h)
	c.losses(h)
	c.counts(h)
	c.unknowns(h)
	return c.faults
}

// A message is what a history has of one value.
type message struct {
	channel, value              string
	keyed                       bool
	start, end                  time.Duration // of all attempts
	accepted, unknown, distinct int           // attempts, and event ids delivered
	refusal                     string        // the detail of an attempt that was refused
}

type checker struct {
	messages    map[string]*message   // by value
	unaccounted map[string][]*message // accepted but not delivered, by channel
	faults      []string
}

func (c *checker) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Sprintf(format, args...))
}

// writes collects the attempts for each message.
func (c *checker) writes(h History) {
	for _, w := range h.Writes {
		m := c.messages[w.Value]
		if m == nil {
			m = &message{channel: w.Channel, value: w.Value, keyed: w.Keyed, start: w.Start}
			c.messages[w.Value] = m
		}
		m.start, m.end = min(m.start, w.Start), max(m.end, w.End)
		switch w.Outcome {
		case Accepted:
			m.accepted++
		case Unknown:
			m.unknown++
		case Refused:
			m.refusal = w.Detail
		}
	}
}

// deliveries checks each channel's deliveries: order, repeats, and that none is invented.
func (c *checker) deliveries(h History) {
	byEvent := map[[2]string]string{} // values
	latest := map[string]*message{}   // by channel, the delivered message that was begun last
	for _, d := range h.Deliveries {
		m := c.messages[d.Value]
		switch {
		case m == nil || m.channel != d.Channel:
			c.fault("channel %s: %q was delivered, but never written there", d.Channel, d.Value)
			continue
		case m.accepted+m.unknown == 0:
			c.fault("channel %s: %q was delivered at %v, but was refused (%v to %v: %s)", d.Channel, d.Value, d.At, m.start, m.end, m.refusal)
			continue
		}
		event := [2]string{d.Channel, d.EventID}
		if value, repeated := byEvent[event]; repeated {
			if value != d.Value {
				c.fault("channel %s: event %s is %q and %q", d.Channel, d.EventID, value, d.Value)
			}
			continue
		}
		byEvent[event] = d.Value
		m.distinct++
		if m.distinct > 1 && (m.keyed || m.distinct > m.accepted+m.unknown) {
			c.fault("channel %s: %q was delivered %d times, with different event ids", d.Channel, d.Value, m.distinct)
		}
		if m.distinct > 1 {
			continue // the order says nothing of further copies
		}
		if before := latest[d.Channel]; before != nil && m.accepted > 0 && m.end < before.start {
			c.fault("channel %s: %q was delivered after %q, but was accepted %v before that was written",
				d.Channel, d.Value, before.value, before.start-m.end)
		}
		if before := latest[d.Channel]; before == nil || m.start > before.start {
			latest[d.Channel] = m
		}
	}
}

// losses checks that accepted messages were delivered or counted.
func (c *checker) losses(h History) {
	for _, m := range c.messages {
		if m.accepted > 0 && m.distinct == 0 {
			c.unaccounted[m.channel] = append(c.unaccounted[m.channel], m)
		}
	}
	for channel, lost := range c.unaccounted {
		if len(lost) <= h.Undelivered[channel] {
			continue
		}
		slices.SortFunc(lost, func(a, b *message) int { return cmp.Compare(a.start, b.start) })
		c.fault("channel %s: %d accepted messages were not delivered, and %d were counted as undelivered; the first is %q, written %v to %v",
			channel, len(lost), h.Undelivered[channel], lost[0].value, lost[0].start, lost[0].end)
	}
}

// counts checks that no channel counted more messages as undelivered than may have been in it.
func (c *checker) counts(h History) {
	written := map[string]int{}
	for _, m := range c.messages {
		if m.keyed {
			written[m.channel] += min(1, m.accepted+m.unknown)
		} else {
			written[m.channel] += m.accepted + m.unknown
		}
	}
	for channel, n := range h.Undelivered {
		if n > written[channel] {
			c.fault("channel %s: %d messages were counted as undelivered, but only %d were written", channel, n, written[channel])
		}
	}
}

// unknowns checks that a fault explains each unknown outcome.
func (c *checker) unknowns(h History) {
	for _, w := range h.Writes {
		explained := func(f Fault) bool {
			return f.Start <= w.End && w.Start <= f.End && (f.Channel == "" || f.Channel == w.Channel)
		}
		if w.Outcome == Unknown && !slices.ContainsFunc(h.Faults, explained) {
			c.fault("channel %s: nothing explains why the outcome of %q is unknown (%v to %v: %s)", w.Channel, w.Value, w.Start, w.End, w.Detail)
		}
	}
}
