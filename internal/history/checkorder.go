package history

import "slices"

// sameOrder checks that there is one order of a topic's messages that all members have seen.
func (c *checker) sameOrder(topic string) {
	after := map[*message]map[*message]bool{} // the messages that a channel got right after one
	before := map[*message]int{}              // how many messages a message came right after
	for _, channel := range c.members[topic] {
		var last *message
		seen := map[*message]bool{}
		for _, d := range c.lines[channel] {
			for _, value := range d.values() {
				m := c.messages[value]
				if m == nil || m.topic != topic || seen[m] || m.unknown > 0 || len(m.attempts) > 1 || c.cameBack(place{channel, topic}) {
					continue
				}
				seen[m] = true
				if after[m] == nil {
					after[m] = map[*message]bool{}
				}
				if last != nil && !after[last][m] {
					after[last][m] = true
					before[m]++
				}
				last = m
			}
		}
	}
	var free []*message
	for m := range after {
		if before[m] == 0 {
			free = append(free, m)
		}
	}
	placed := 0
	for ; len(free) > 0; placed++ {
		m := free[len(free)-1]
		free = free[:len(free)-1]
		for next := range after[m] {
			if before[next]--; before[next] == 0 {
				free = append(free, next)
			}
		}
	}
	if placed < len(after) {
		c.fault("topic %s: members have got its messages in different orders: %q", topic, circle(after, before))
	}
}

// circle returns the values of messages each of which somebody got after the one before it, and the first one after the last.
func circle(after map[*message]map[*message]bool, before map[*message]int) (values []string) {
	at := map[*message]int{}
	var m *message
	for candidate := range after { // a message that has no place comes after another one that has none
		if before[candidate] > 0 {
			m = candidate
		}
	}
	for {
		if i, seen := at[m]; seen {
			values = values[i:]
			slices.Reverse(values)
			return values
		}
		at[m] = len(values)
		values = append(values, m.value)
		for candidate := range after {
			if before[candidate] > 0 && after[candidate][m] {
				m = candidate
				break
			}
		}
	}
}

// kept checks that those who asked for what a topic keeps got all that was there.
func (c *checker) kept() {
	for _, s := range c.Stays {
		if !s.Last || c.deleted(s.Channel) {
			continue
		}
		for _, m := range c.topics[s.Topic] {
			was := slices.ContainsFunc(m.attempts, func(w Write) bool { return w.Outcome == Accepted && w.span().before(s.Join) })
			if was && m.distinct[s.Channel] == 0 && !c.replaced(s.Channel, m) {
				c.fault("channel %s: it joined topic %s at %v and asked for all that it keeps, but never got %q", s.Channel, s.Topic, s.Join.Start, m.value)
			}
		}
	}
}

// ends returns how many topics have ended of which a channel may have been a member.
func (c *checker) ends(channel string) (n int) {
	for _, end := range c.Closes {
		if c.mayEnd(channel, end) {
			n++
		}
	}
	return n
}

// mayEnd reports whether a channel may have got the end of a topic.
func (c *checker) mayEnd(channel string, end Close) bool {
	return slices.ContainsFunc(c.stays[place{channel, end.Topic}], func(s Stay) bool {
		return s.touches(end.Span) || s.Last && end.Start <= s.Join.End
	})
}

// closes checks the ends of topics.
func (c *checker) closes() {
	ended := map[place]int{}
	for channel, lines := range c.lines {
		for _, d := range lines {
			if d.End != "" {
				ended[place{channel, d.Value}]++
				if !slices.ContainsFunc(c.Closes, func(end Close) bool {
					return end.Topic == d.Value && end.As == d.End && c.mayEnd(channel, end)
				}) {
					c.fault("channel %s: it got the end of topic %s as %q, which did not end so for it", channel, d.Value, d.End)
				}
				continue
			}
			for _, value := range d.values() {
				if m := c.messages[value]; m != nil && ended[place{channel, m.topic}] > 0 && !c.cameBack(place{channel, m.topic}) {
					c.fault("channel %s: it got %q after the end of topic %s", channel, value, m.topic)
				}
			}
		}
	}
	for at, n := range ended {
		if n > 1 && !c.cameBack(at) {
			c.fault("channel %s: it got the end of topic %s %d times", at.channel, at.topic, n)
		}
	}
	for _, end := range c.Closes {
		for _, m := range c.topics[end.Topic] {
			for _, w := range m.attempts {
				if w.Outcome == Accepted && end.before(w.span()) {
					c.fault("topic %s: %q was accepted after the end", end.Topic, m.value)
				}
			}
		}
		for _, channel := range c.members[end.Topic] {
			must := slices.ContainsFunc(c.stays[place{channel, end.Topic}], func(s Stay) bool {
				return s.covers(end.Span) || s.Last && end.before(s.Join) && s.Join.End != never
			})
			if must && c.KnowsTopics[channel] && !c.deleted(channel) && ended[place{channel, end.Topic}] == 0 {
				c.fault("channel %s: it did not get the end of topic %s", channel, end.Topic)
			}
		}
	}
}
