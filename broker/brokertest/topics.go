package brokertest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// topical is a suite for a Broker with topics.
type topical struct {
	*suite
	broker.Topics
}

// topics returns the suite for topics. If the Broker has none, the test is skipped.
func (s *suite) topics() *topical {
	s.Helper()
	return &topical{s, implementing[broker.Topics](s)}
}

// member creates a channel that knows topics and is a member of some, without what they keep.
func (t *topical) member(topics ...string) broker.Addresses {
	t.Helper()
	var joins []broker.Join
	for _, topic := range topics {
		joins = append(joins, broker.Join{Topic: topic})
	}
	a, err := t.CreateMember(t.Context(), "agent", joins, t.limits)
	t.no(err)
	return a
}

// joiner creates a channel that knows topics and joins one, with what that keeps.
func (t *topical) joiner(topic string, last int) broker.Addresses {
	t.Helper()
	a, err := t.CreateMember(t.Context(), "agent", []broker.Join{{Topic: topic, Last: last}}, t.limits)
	t.no(err)
	return a
}

func (t *topical) join(a broker.Addresses, topic string, last int) {
	t.Helper()
	t.no(t.Join(t.Context(), a.Producer, broker.Join{Topic: topic, Last: last}, t.limits))
}

func (t *topical) leave(a broker.Addresses, topic string) {
	t.Helper()
	t.no(t.Leave(t.Context(), a.Producer, topic))
}

// tell publishes a message and checks what became of it.
func (t *topical) tell(topic string, m *broker.Message, full broker.WhenFull, want broker.Published) {
	t.Helper()
	got, err := t.PublishTopic(t.Context(), topic, m, full, t.limits)
	t.no(err)
	if got != want {
		t.Fatalf("%+v is reported, want %+v", got, want)
	}
}

// tells publishes a message of each name.
func (t *topical) tells(topic string, names ...string) (ms []*broker.Message) {
	t.Helper()
	for _, name := range names {
		m := t.message(name)
		_, err := t.PublishTopic(t.Context(), topic, m, broker.FullMiss, t.limits)
		t.no(err)
		ms = append(ms, m)
	}
	return ms
}

// begin publishes a message in another goroutine, and checks that the call waits.
func (t *topical) begin(ctx context.Context, topic string, m *broker.Message) (got *broker.Published, result <-chan error) {
	t.Helper()
	got, l := new(broker.Published), t.limits
	result = start(func() (err error) {
		*got, err = t.PublishTopic(ctx, topic, m, broker.FullHold, l)
		return err
	})
	t.waits(result)
	return got, result
}

// told checks that a call that waited has returned, and what it reports.
func (t *topical) told(got *broker.Published, result <-chan error, want broker.Published) {
	t.Helper()
	t.no(t.returned(result))
	if *got != want {
		t.Fatalf("%+v is reported, want %+v", *got, want)
	}
}

// end closes a topic.
func (t *topical) end(topic string) *broker.Message {
	t.Helper()
	m, err := broker.NewEnd(topic, broker.EndDone)
	t.no(err)
	t.no(t.CloseTopic(t.Context(), topic, m, t.limits))
	return m
}

func (t *topical) keep(topic string, bytes int64, ttl time.Duration) {
	t.Helper()
	t.no(t.KeepTopic(t.Context(), topic, broker.Keep{Bytes: bytes, TTL: ttl}, t.limits))
}

func (t *topical) info(topic string) broker.TopicInfo {
	t.Helper()
	i, err := t.Topic(t.Context(), topic)
	t.no(err)
	return i
}

// has checks how many members a topic has, and how many of them have a reader.
func (t *topical) has(topic string, members, connected int) {
	t.Helper()
	var i broker.TopicInfo
	if !t.eventually(func() bool {
		i = t.info(topic)
		return i.Members == members && i.Connected == connected
	}) {
		t.Fatalf("the topic has %d members, %d of them connected; want %d and %d", i.Members, i.Connected, members, connected)
	}
}

// nothing checks that a topic does not exist.
func (t *topical) nothing(topic string) {
	t.Helper()
	var i broker.TopicInfo
	if !t.eventually(func() bool {
		i = t.info(topic)
		return i == broker.TopicInfo{Name: topic}
	}) {
		t.Fatalf("there is a topic %+v", i)
	}
}

var topicTests = group{
	"all members get what is published, in order, and nobody else does": func(s *suite) {
		t := s.topics()
		a, b, other, none := t.member("news"), t.create(), t.member("news2"), t.member()
		t.join(b, "news", 0)
		ms := []*broker.Message{t.message("1"), t.message("2"), t.message("3")}
		for _, m := range ms {
			t.tell("news", m, broker.FullMiss, broker.Published{Members: 2, Accepted: 2})
		}
		t.subscribe(a.Consumer).takes(ms...)
		t.subscribe(b.Consumer).takes(ms...)
		t.holds(other.Consumer, 0, 0)
		t.holds(none.Consumer, 0, 0)
	},
	"a channel joins and leaves once": func(s *suite) {
		t := s.topics()
		a := t.member("news")
		t.join(a, "news", broker.LastAll)
		t.has("news", 1, 0)
		m := t.tells("news", "m")[0]
		for range 2 {
			t.leave(a, "news")
			t.leave(a, "another")
		}
		t.nothing("news")
		t.tell("news", t.message("later"), broker.FullMiss, broker.Published{})
		t.subscribe(a.Consumer).takes(m)
	},
	"a channel is a member of several topics": func(s *suite) {
		t := s.topics()
		a := t.member("1", "2", "3", "4", "2")
		t.leave(a, "2")
		t.leave(a, "1")
		t.leave(a, "4")
		t.join(a, "5", 0)
		for topic, members := range map[string]int{"1": 0, "2": 0, "3": 1, "4": 0, "5": 1} {
			t.tell(topic, t.message(topic), broker.FullMiss, broker.Published{Members: members, Accepted: members})
		}
		t.holds(a.Consumer, 2, 0)
		t.delete(a.Consumer)
		t.nothing("3")
		t.nothing("5")
	},
	"only producer addresses of channels join and leave": func(s *suite) {
		t := s.topics()
		a := t.member("news")
		gone := t.create()
		t.delete(gone.Consumer)
		for _, address := range []string{a.Consumer, gone.Producer, "", "agent.x"} {
			t.is(t.Join(t.Context(), address, broker.Join{Topic: "news"}, t.limits), broker.ErrNotFound)
			t.is(t.Leave(t.Context(), address, "news"), broker.ErrNotFound)
		}
		t.has("news", 1, 0)
	},
	"a channel is a member of so many topics at most": func(s *suite) {
		t := s.topics()
		t.limits.MaxTopics = 2
		a := t.member("1", "2", "1")
		t.is(t.Join(t.Context(), a.Producer, broker.Join{Topic: "3"}, t.limits), broker.ErrTopicLimit)
		t.join(a, "2", 0)
		t.leave(a, "1")
		t.join(a, "3", 0)
		t.nothing("1")
		t.has("3", 1, 0)
	},
	"a channel that may not be a member is not created": func(s *suite) {
		t := s.topics()
		t.limits.MaxTopics = 1
		joins := []broker.Join{{Topic: "1"}, {Topic: "2"}}
		_, err := t.CreateMember(t.Context(), "agent", joins, t.limits)
		t.is(err, broker.ErrTopicLimit)
		t.nothing("1")
		if all := t.list(broker.ListOptions{Limit: 10}); len(all) != 0 {
			t.Errorf("there are %d channels", len(all))
		}
		t.limits.MaxChannels, t.limits.MaxTopics = 0, 2
		_, err = t.CreateMember(t.Context(), "agent", joins, t.limits)
		t.is(err, broker.ErrChannelLimit)
		t.nothing("1")
	},
	"a topic may have many members": func(s *suite) {
		t := s.topics()
		const n = 300
		var members []broker.Addresses
		for range n {
			members = append(members, t.member("news"))
		}
		all := broker.Published{Members: n, Accepted: n}
		t.tell("news", t.message("1"), broker.FullMiss, all)
		var left []broker.Addresses
		for i := 0; i < n; i += 3 {
			t.leave(members[i], "news")
			left = append(left, members[i])
		}
		all.Members, all.Accepted = n-len(left), n-len(left)
		t.tell("news", t.message("2"), broker.FullMiss, all)
		for _, a := range left {
			t.join(a, "news", 0)
		}
		t.tell("news", t.message("3"), broker.FullMiss, broker.Published{Members: n, Accepted: n})
		for i, a := range members {
			want := 3
			if i%3 == 0 {
				want = 2
			}
			t.holds(a.Consumer, want, 0)
			t.delete(a.Consumer)
		}
		t.nothing("news")
	},
	"the name of a topic is any text": func(s *suite) {
		t := s.topics()
		names := []string{"a", "A", "a*", "a b/c?d", "{a}:ä", "\x00", strings.Repeat("ü", broker.MaxTopicName/2)}
		for _, name := range names {
			a := t.member(name)
			t.has(name, 1, 0)
			m := t.tells(name, "m")[0]
			t.subscribe(a.Consumer).takes(m)
		}
	},
	"a membership ends with its channel": func(s *suite) {
		t := s.topics()
		expires, a := t.member("news"), t.member("news")
		t.subscribe(a.Consumer)
		t.has("news", 2, 1)
		t.delete(a.Consumer)
		t.has("news", 1, 0)
		at := t.expire(expires.Consumer)
		if !t.within(time.Until(at)+sweep, func() bool { return t.info("news").Members == 0 }) {
			t.Error("a channel that has expired is a member")
		}
		t.nothing("news")
	},
	"members with a reader are connected": func(s *suite) {
		t := s.topics()
		a, b := t.member("1", "2"), t.member("1")
		t.has("1", 2, 0)
		t.subscribe(b.Consumer)
		r := t.subscribe(a.Consumer)
		t.has("1", 2, 2)
		t.has("2", 1, 1)
		t.join(a, "3", 0)
		t.has("3", 1, 1)
		next := t.subscribe(a.Consumer, takeOver)
		r.over(broker.ErrTakenOver)
		r.End(broker.EndClean)
		t.has("1", 2, 2)
		t.leave(a, "2")
		t.nothing("2")
		next.End(broker.EndClean)
		t.has("1", 2, 1)
		t.has("3", 1, 0)
		t.delete(b.Consumer)
		t.has("1", 1, 0)
	},
	"topics are listed page by page":    topicsAreListed,
	"statistics of topics":              topicStatistics,
	"a publish needs memory":            publishNeedsMemory,
	"after close all calls fail":        topicsAreClosed,
	"a repeated publish has no effect":  repeatedPublish,
	"one that leaves in between is new": leavesInBetween,
	"messages of topics and of the channel have one order": func(s *suite) {
		t := s.topics()
		t.limits.Buffer, t.limits.InFlight = 100, 100
		a := t.member("1", "2")
		var want []*broker.Message
		for i := range 10 {
			want = append(want, t.publish(a.Producer, fmt.Sprint(i))...)
			want = append(want, t.tells("1", "of the topic")...)
			want = append(want, t.tells("2", "of the other")...)
		}
		t.subscribe(a.Consumer).takes(want...)
	},
}

func publishNeedsMemory(s *suite) {
	t := s.topics()
	a := t.member("news")
	full := t.useUpMemory()
	t.is(t.KeepTopic(t.Context(), "news", broker.Keep{}, t.limits), broker.ErrMemoryLimit)
	m := t.keyed("m", "key")
	_, err := t.PublishTopic(t.Context(), "news", m, broker.FullMiss, t.limits)
	t.is(err, broker.ErrMemoryLimit)
	t.holds(a.Consumer, 0, 0)
	t.delete(full.Consumer)
	t.tell("news", m, broker.FullMiss, broker.Published{Members: 1, Accepted: 1})
	t.subscribe(a.Consumer).takes(m)
}

func repeatedPublish(s *suite) {
	t := s.topics()
	a := t.member("news")
	m := t.keyed("m", "key")
	t.tell("news", m, broker.FullMiss, broker.Published{Members: 1, Accepted: 1})
	b := t.member("news")
	t.tell("news", m, broker.FullMiss, broker.Published{Members: 2, Accepted: 2})
	t.tell("news", m, broker.FullMiss, broker.Published{Members: 2, Accepted: 2})
	t.subscribe(a.Consumer).takes(m)
	t.subscribe(b.Consumer).takes(m)
	if b, ok := t.Broker.(broker.Statser); ok && !t.eventually(func() bool { return b.Stats().Duplicates == 3 }) {
		t.Errorf("%d messages are repeated", b.Stats().Duplicates)
	}
}

func leavesInBetween(s *suite) {
	t := s.topics()
	a, b := t.member("news"), t.member("news")
	first := t.tells("news", "1")[0]
	t.leave(a, "news")
	second := t.tells("news", "2")[0]
	t.join(a, "news", 0)
	third := t.tells("news", "3")[0]
	t.subscribe(a.Consumer).takes(first, third)
	t.subscribe(b.Consumer).takes(first, second, third)
}
