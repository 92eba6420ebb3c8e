package history

import (
	"maps"
	"slices"
	"time"
)

// checkTopics says what is wrong with topics (protocol.md 2.12 and 2.13). It finds nothing if all of this holds:
//
//   - Only members get the messages and the end of a topic, in the order of the topic, which is the same for all members, and in
//     that of each producer.
//   - What a channel was told to have missed is what it was a member for and did not get, exactly. That leaves room only where a
//     message was published while the channel joined or left, and where one has replaced another.
//   - The reply to a publish counts as accepted those that got the message, and all others as full.
//   - Who joins and asks for what the topic keeps gets all of it.
//   - Members get the end, and nothing after it. Nothing is published after it.
//   - Messages are merged only if their producer asked for it, and no piece of a text is missing in between.
func (c *checker) checkTopics() {
	for _, channel := range slices.Sorted(maps.Keys(c.lines)) {
		c.producersOrder(channel)
		c.merges(channel)
	}
	c.missed()
	for _, topic := range slices.Sorted(maps.Keys(c.topics)) {
		for _, m := range c.topics[topic] {
			for _, w := range m.attempts {
				c.reply(m, w)
			}
		}
		c.sameOrder(topic)
	}
	c.kept()
	c.closes()
}

// span returns the time of an attempt. One whose outcome is unknown may have its effect later.
func (w Write) span() Span {
	if w.Outcome == Unknown {
		return Span{w.Start, never}
	}
	return Span{w.Start, w.End}
}

// span returns the time of all attempts that were not refused.
func (m *message) span() Span {
	if m.unknown > 0 {
		return Span{m.start, never}
	}
	return Span{m.start, m.end}
}

// mayHave reports whether a channel may have got a message of a topic: as a member, or of what the topic keeps.
func (c *checker) mayHave(channel string, m *message) bool {
	return c.mayKeep(channel, m) || slices.ContainsFunc(c.stays[place{channel, m.topic}], func(s Stay) bool { return s.touches(m.span()) })
}

// mayKeep reports whether a join may have brought a message.
func (c *checker) mayKeep(channel string, m *message) bool {
	return slices.ContainsFunc(c.stays[place{channel, m.topic}], func(s Stay) bool { return s.Last && m.start <= s.Join.End })
}

// cameBack reports whether a channel has joined a topic again, and asked for what the topic keeps.
func (c *checker) cameBack(at place) bool {
	stays := c.stays[at]
	return len(stays) > 1 && slices.ContainsFunc(stays[1:], func(s Stay) bool { return s.Last })
}

// returned reports whether a channel has done that with any topic.
func (c *checker) returned(channel string) bool {
	for topic := range c.members {
		if c.cameBack(place{channel, topic}) {
			return true
		}
	}
	return false
}

// deleted reports whether a channel was deleted in the course of the history.
func (c *checker) deleted(channel string) bool {
	_, ok := c.Undelivered[channel]
	return ok
}

// producersOrder checks the order of each producer's messages.
func (c *checker) producersOrder(channel string) {
	last := map[string]*message{} // by producer
	for _, d := range c.lines[channel] {
		for _, value := range d.values() {
			m := c.messages[value]
			if m == nil || m.producer == "" || m.unknown > 0 || c.cameBack(place{channel, m.topic}) {
				continue
			}
			if before := last[m.producer]; before != nil && before.number > m.number {
				c.fault("channel %s: %q was delivered after %q of the same producer", channel, m.value, before.value)
			}
			last[m.producer] = m
		}
	}
}

// merges checks the messages that others were appended to.
func (c *checker) merges(channel string) {
	for _, d := range c.lines[channel] {
		for i, value := range d.Appended {
			m, before := c.messages[value], c.messages[d.values()[i]]
			switch {
			case m == nil || before == nil: // reported already
			case m.merge != MergeAppend || before.merge != MergeAppend || m.producer != before.producer || m.topic != before.topic:
				c.fault("channel %s: %q was appended to %q", channel, m.value, before.value)
			default:
				c.gap(channel, before, m)
			}
		}
	}
}

// gap checks that no piece of a text is missing between two that the channel got as one, whether it was a member then or not. What is
// unknown may happen later than what its producer has published since.
func (c *checker) gap(channel string, from, to *message) {
	if from.unknown > 0 || to.unknown > 0 {
		return
	}
	for _, m := range c.topics[to.topic] {
		if m.producer == to.producer && from.number < m.number && m.number < to.number && m.accepted > 0 {
			c.fault("channel %s: %q was appended to %q, without %q, which stands between them", channel, to.value, from.value, m.value)
		}
	}
}

// sure reports whether a channel was a member all the time in which a message was published, and that was accepted.
func (c *checker) sure(channel string, m *message) bool {
	return slices.ContainsFunc(m.attempts, func(w Write) bool {
		return w.Outcome == Accepted && slices.ContainsFunc(c.stays[place{channel, m.topic}], func(s Stay) bool { return s.covers(w.span()) })
	})
}

// replaced reports whether a later message of its producer may have taken a message's place in a channel.
func (c *checker) replaced(channel string, m *message) bool {
	return m.merge == MergeReplace && slices.ContainsFunc(c.topics[m.topic], func(later *message) bool {
		return later.producer == m.producer && later.number > m.number && later.distinct[channel] > 0
	})
}

// missed compares what each channel was told to have missed with what it did not get.
func (c *checker) missed() {
	told := map[string]int{}
	for channel, lines := range c.lines {
		for _, d := range lines {
			told[channel] += d.Missed
			if !c.KnowsTopics[channel] && (d.Missed > 0 || d.End != "") {
				c.fault("channel %s: it does not know topics, but got %q", channel, d.text())
			}
		}
	}
	for channel := range c.KnowsTopics {
		least, most, first := c.missable(channel)
		if n := told[channel]; n > most {
			c.fault("channel %s: it was told that it has missed %d messages, but can have missed only %d", channel, n, most)
		} else if n < least && c.isTold(channel) {
			c.fault("channel %s: it was told that it has missed %d messages, but has missed at least %d; the first is %q", channel, n, least, first)
		}
	}
}

// missable returns how many messages a channel has missed, at least and at most, and the first of these.
func (c *checker) missable(channel string) (least, most int, first string) {
	for topic, ms := range c.topics {
		for _, m := range ms {
			possible := 0
			for _, w := range m.attempts {
				if slices.ContainsFunc(c.stays[place{channel, topic}], func(s Stay) bool { return s.touches(w.span()) }) {
					possible++
				}
			}
			got := m.distinct[channel] > 0
			if !got && c.sure(channel, m) && !c.replaced(channel, m) {
				if least++; first == "" {
					first = m.value
				}
			}
			if got && !c.mayKeep(channel, m) {
				possible--
			}
			most += max(0, possible)
		}
	}
	return least, most, first
}

// isTold reports whether a channel has got a message after the last publish, which says what it has missed until then. One that
// came back may have got the same line for two reasons.
func (c *checker) isTold(channel string) bool {
	last := time.Duration(0)
	for _, ms := range c.topics {
		for _, m := range ms {
			last = max(last, m.end)
		}
	}
	return !c.returned(channel) && slices.ContainsFunc(c.lines[channel], func(d Delivery) bool {
		m := c.messages[d.Value]
		return m != nil && m.topic == "" && m.start > last
	})
}

// reply checks what the reply to a publish says of the members.
func (c *checker) reply(m *message, w Write) {
	p := w.Published
	if p == nil {
		return
	}
	sure, possible, got, unclear, leaving := 0, 0, 0, 0, 0
	for _, channel := range c.members[m.topic] {
		stays := c.stays[place{channel, m.topic}]
		if slices.ContainsFunc(stays, func(s Stay) bool { return s.covers(w.span()) }) {
			sure++
		} else if !slices.ContainsFunc(stays, func(s Stay) bool { return s.touches(w.span()) }) {
			continue
		}
		possible++
		if slices.ContainsFunc(stays, func(s Stay) bool { return s.touches(w.span()) && !w.span().before(s.Leave) }) {
			leaving++ // a Broker may have waited a moment for room in it
		}
		switch has := m.distinct[channel] > 0; {
		case has && !c.mayKeep(channel, m):
			got++
		case has || c.deleted(channel) || c.replaced(channel, m):
			unclear++
		}
	}
	if p.Members < sure || p.Members > possible || p.Accepted+p.Full > p.Members || !p.Held && p.Accepted+p.Full < p.Members-leaving {
		c.fault("topic %s: the reply to %q says %+v, but there were %d to %d members", m.topic, m.value, *p, sure, possible)
	}
	if len(m.attempts) == 1 && (p.Accepted < got || p.Accepted > got+unclear) {
		c.fault("topic %s: the reply to %q says %+v, but %d to %d members have it", m.topic, m.value, *p, got, got+unclear)
	}
}
