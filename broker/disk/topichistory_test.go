package disk

import (
	"slices"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// Acts with topics. For some, the consumer of the fact is the name of the topic.
const (
	knows  act = 'n' // the channel knows topics
	joins  act = 'j' // the number is that of the topic
	leaves act = 'l' // the same
	misses act = 'm'
	keeps  act = 'k' // the topic keeps a message
	closes act = 'e'
)

// A topicTrack is what facts say of a topic.
type topicTrack struct {
	begun, kept     []int // numbers of messages
	closing, closed bool
	closes          int // the index of the fact that it is being closed
}

// A memberTrack is what facts say of a channel because of topics.
type memberTrack struct {
	knows    bool
	deleting bool
	joined   map[string]act // by topic; the last act, or 0 while that is not done
	missing  int            // messages, at most
	missed   int            // messages since the last read that may have settled what tells of them
	settles  int            // the index of the last fact that it settles messages
}

// ofTopics sums up the facts that are about topics.
func (h facts) ofTopics(before int) (topics map[string]*topicTrack, members map[string]*memberTrack) {
	topics, members = map[string]*topicTrack{}, map[string]*memberTrack{}
	for i, f := range h {
		if f.done && f.at >= before {
			continue
		}
		if f.act == keeps || f.act == closes {
			t := topics[f.consumer]
			if t == nil {
				t = &topicTrack{}
				topics[f.consumer] = t
			}
			switch {
			case f.act == closes && f.done:
				t.closed = true
			case f.act == closes:
				t.closing, t.closes = true, i
			case f.done:
				t.kept = append(t.kept, f.n)
			default:
				t.begun = append(t.begun, f.n)
			}
			continue
		}
		m := members[f.consumer]
		if m == nil {
			m = &memberTrack{joined: map[string]act{}}
			members[f.consumer] = m
		}
		if m.add(f); f.act == settles {
			m.settles = i
		}
	}
	return topics, members
}

func (m *memberTrack) add(f fact) {
	switch f.act {
	case creates, writes, keeps, closes:
	case knows:
		m.knows = true
	case deletes:
		m.deleting = true
	case joins, leaves:
		if m.joined[topicName(f.n)] = 0; f.done {
			m.joined[topicName(f.n)] = f.act
		}
	case misses:
		if f.done {
			m.missed++
		} else {
			m.missing++
		}
	case settles:
		m.missed = 0
	}
}

// held is what a Broker has of channels and topics because of topics, by consumer and by name.
type held struct {
	topics map[string]*heldTopic
	missed map[string]int
	ends   map[string][]broker.EventID // of topics, which have come or wait
}

type heldTopic struct {
	members []string
	kept    []int
	end     *broker.Message
}

func heldBy(b *Broker) held {
	h := held{map[string]*heldTopic{}, map[string]int{}, map[string][]broker.EventID{}}
	byID := map[journal.ID]*heldTopic{}
	for id := range b.log.engine.IDs() { // topics come first
		b.log.engine.Look(id, func(c journal.Locked) {
			if t := c.Topic(); t != nil {
				var kept []*broker.Message
				for _, m := range c.Messages() {
					kept = append(kept, m)
				}
				byID[t.ID] = &heldTopic{kept: numbersOf(kept), end: t.End}
				h.topics[t.Name] = byID[t.ID]
				return
			}
			consumer := broker.FormatAddress(c.Snapshot().Agent, c.Snapshot().Consumer)
			for _, topic := range c.Member().Topics {
				byID[topic].members = append(byID[topic].members, consumer)
			}
			for _, topic := range c.Member().Ends {
				h.ends[consumer] = append(h.ends[consumer], byID[topic].end.ID())
			}
			for _, m := range c.Messages() {
				if m.End() != "" {
					h.ends[consumer] = append(h.ends[consumer], m.ID())
				}
			}
			for _, run := range c.Member().Marks {
				h.missed[consumer] += run.Missed
			}
		})
	}
	return h
}

// checkTopics compares the topics of a Broker that was opened after a crash with the facts before it.
func (h facts) checkTopics(tb testing.TB, b *Broker, before int, settlesHold bool) {
	tb.Helper()
	topics, members := h.ofTopics(before)
	is := heldBy(b)
	for name, t := range topics {
		t.check(tb, name, is.topics[name])
	}
	for consumer, m := range members {
		for topic, last := range m.joined {
			has := is.topics[topic] != nil && slices.Contains(is.topics[topic].members, consumer)
			if last == joins && !has && !m.deleting || last == leaves && has {
				tb.Errorf("after %c, it is %v that %s is a member of %s", last, has, consumer, topic)
			}
		}
		for name, t := range topics {
			if !m.knows || m.deleting || m.joined[name] != joins || !t.closed || is.topics[name] == nil || is.topics[name].end == nil {
				continue
			}
			if m.settles < t.closes && !slices.Contains(is.ends[consumer], is.topics[name].end.ID()) {
				tb.Errorf("%s lacks the end of %s", consumer, name)
			}
		}
		missed := is.missed[consumer]
		if m.knows && !m.deleting && (missed < m.missed || missed > m.missing && settlesHold) || !m.knows && missed > 0 {
			tb.Errorf("%s has missed %d messages, want %d to %d", consumer, missed, m.missed, m.missing)
		}
	}
	for name, t := range is.topics {
		if topics[name] == nil && (len(t.kept) > 0 || !strings.HasPrefix(name, "topic-")) {
			tb.Errorf("there is a topic %s that nobody knows", name)
		}
	}
}

// check compares a topic with what is there of it.
func (t *topicTrack) check(tb testing.TB, name string, is *heldTopic) {
	tb.Helper()
	if is == nil {
		if len(t.kept) > 0 || t.closed {
			tb.Errorf("the topic %s is gone", name)
		}
		return
	}
	if closed := is.end != nil; closed && !t.closing || !closed && t.closed {
		tb.Errorf("it is %v that the topic %s is closed", closed, name)
	}
	if !slices.IsSorted(is.kept) {
		tb.Errorf("the topic %s keeps %v", name, is.kept)
	}
	for _, n := range is.kept {
		if !slices.Contains(t.begun, n) {
			tb.Errorf("the topic %s keeps %d, which nobody has published", name, n)
		}
	}
	number := 0
	for _, digit := range strings.TrimPrefix(name, "topic-") {
		number = 10*number + int(digit-'0')
	}
	trims := (&topicLoad{number: number}).trims()
	for _, n := range t.kept {
		if (!trims || len(is.kept) > 0 && n > is.kept[0]) && !slices.Contains(is.kept, n) {
			tb.Errorf("the topic %s keeps %v, and not %d", name, is.kept, n)
		}
	}
}
