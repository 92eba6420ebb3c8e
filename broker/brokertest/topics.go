package brokertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var topicTests = group{
	"every member gets a published message": func(s *suite) {
		a, b, other := s.member("t"), s.member("t", "u"), s.member("u")
		m, n := s.message("1"), s.message("2")
		s.publishes("t", m, 2, 2, 0)
		s.publishes("u", n, 2, 2, 0)
		s.subscribe(a.Consumer).takes(m)
		s.subscribe(b.Consumer).takes(m, n)
		s.subscribe(other.Consumer).takes(n)
		s.publishes("nobody's", m, 0, 0, 0)
	},
	"a channel of Create can join, and a member can leave": func(s *suite) {
		a := s.create()
		for range 2 {
			s.joins(a, broker.Join{Topic: "t"})
		}
		m := s.message("1")
		s.publishes("t", m, 1, 1, 0)
		for range 2 {
			s.no(s.topics().Leave(s.Context(), a.Producer, "t"))
		}
		s.publishes("t", s.message("2"), 0, 0, 0)
		s.joins(a, broker.Join{Topic: "t"})
		n := s.message("3")
		s.publishes("t", n, 1, 1, 0)
		s.subscribe(a.Consumer).takes(m, n)
	},
	"messages of topics and of the channel have one order": func(s *suite) {
		s.limits.Buffer, s.limits.InFlight = 100, 100
		a := s.member("t", "u")
		var want []*broker.Message
		for i := range 10 {
			m, n, o := s.message(fmt.Sprint(i)), s.message("of the topic"), s.message("of the other")
			s.send(a.Producer, m)
			s.publishes("t", n, 1, 1, 0)
			s.publishes("u", o, 1, 1, 0)
			want = append(want, m, n, o)
		}
		s.subscribe(a.Consumer).takes(want...)
	},
	"there is no membership without a channel": func(s *suite) {
		t, a := s.topics(), s.member("t")
		for _, address := range []string{a.Consumer, "agent.unknown", ""} {
			s.is(t.Join(s.Context(), address, broker.Join{Topic: "t"}, s.limits), broker.ErrNotFound)
			s.is(t.Leave(s.Context(), address, "t"), broker.ErrNotFound)
		}
		s.delete(a.Producer)
		s.is(t.Join(s.Context(), a.Producer, broker.Join{Topic: "t"}, s.limits), broker.ErrNotFound)
		s.publishes("t", s.message("1"), 0, 0, 0)
	},
	"a membership ends when the channel expires": func(s *suite) {
		a := s.member("t")
		if at := s.expire(a.Consumer); !s.realTime {
			time.Sleep(time.Until(at) + sweep)
		}
		if !s.within(s.pick(0, 2*sweep), func() bool { return s.topic("t").Members == 0 }) {
			s.Errorf("the topic is %+v", s.topic("t"))
		}
	},
	"a channel joins no more topics than allowed": func(s *suite) {
		s.limits.MaxTopics = 3
		a := s.member("1", "2", "3")
		s.joins(a, broker.Join{Topic: "3"})
		s.is(s.topics().Join(s.Context(), a.Producer, broker.Join{Topic: "4"}, s.limits), broker.ErrTopicLimit)
		s.no(s.topics().Leave(s.Context(), a.Producer, "1"))
		s.joins(a, broker.Join{Topic: "4"})
		var joins []broker.Join
		for i := range 4 {
			joins = append(joins, broker.Join{Topic: fmt.Sprint(i)})
		}
		_, err := s.topics().CreateMember(s.Context(), "agent", joins, s.limits)
		s.is(err, broker.ErrTopicLimit)
		for name, members := range map[string]int{"0": 0, "1": 0, "2": 1, "3": 1, "4": 1} {
			if got := s.topic(name).Members; got != members {
				s.Errorf("the topic %s has %d members, want %d", name, got, members)
			}
		}
	},
	"a full member misses the message, and learns how many": func(s *suite) {
		full, free := s.member("t"), s.member("t")
		old := s.create()
		s.joins(old, broker.Join{Topic: "t"})
		first := s.fill(full.Producer)
		s.fill(old.Producer)
		one, two := s.message("one"), s.message("two")
		s.publishes("t", one, 3, 1, 2)
		s.publishes("t", two, 3, 1, 2)
		r := s.subscribe(full.Consumer)
		s.equal(first[:3], r.next(3))
		three := s.message("three")
		s.publishes("t", three, 3, 2, 1)
		s.subscribe(free.Consumer).next(3)
		r.Settle(first[2].ID())
		s.equal([]*broker.Message{first[3], three.Missed(2)}, r.next(2))
		r.End(broker.EndFault)
		s.subscribe(full.Consumer, follow).takes(first[3], three.Missed(2)) // what is sent again says the same
		o := s.subscribe(old.Consumer)
		o.next(3)
		o.Settle(s.peek(old.Consumer)[2].ID())
		four := s.message("four")
		s.publishes("t", four, 3, 3, 0)
		s.equal([]*broker.Message{four}, o.next(2)[1:])
	},
	"the count of what was missed comes with any message": func(s *suite) {
		a := s.member("t")
		first := s.fill(a.Producer)
		s.publishes("t", s.message("missed"), 1, 0, 1)
		r := s.subscribe(a.Consumer, acknowledged)
		r.next(3)
		r.Settle(first[2].ID())
		m := s.message("written")
		s.send(a.Producer, m)
		n := s.message("published")
		s.publishes("t", n, 1, 1, 0)
		s.equal([]*broker.Message{first[3], m.Missed(1), n}, r.next(3))
	},
	"full members can be waited for": func(s *suite) {
		s.shortHold()
		full, free := s.member("t"), s.member("t")
		s.fill(full.Producer)
		m := s.message("m")
		published := start(func() error {
			p, err := s.topics().PublishTopic(s.Context(), "t", m, broker.FullHold, s.limits)
			if want := (broker.Published{Members: 2, Accepted: 2}); p != want {
				s.Errorf("published %+v, want %+v", p, want)
			}
			return err
		})
		s.waits(published)
		s.subscribe(free.Consumer).takes(m)
		r := s.subscribe(full.Consumer)
		r.next(3)
		s.no(s.returned(published))
		r.received()
		s.equal([]*broker.Message{m}, r.next(2)[1:])
	},
	"what waits too long is missed": func(s *suite) {
		s.shortHold()
		full := s.member("t")
		s.fill(full.Producer)
		begun := time.Now()
		published := start(func() error {
			p, err := s.topics().PublishTopic(s.Context(), "t", s.message("m"), broker.FullHold, s.limits)
			if want := (broker.Published{Members: 1, Full: 1}); p != want {
				s.Errorf("published %+v, want %+v", p, want)
			}
			return err
		})
		if !s.realTime {
			time.Sleep(s.limits.Hold)
		}
		s.no(s.returned(published))
		s.took(begun, s.limits.Hold)
		r := s.subscribe(full.Consumer)
		r.next(3)
		r.received()
		m := s.message("next")
		s.publishes("t", m, 1, 1, 0)
		s.equal([]*broker.Message{m.Missed(1)}, r.next(2)[1:])
	},
	"nothing overtakes a message that waits for a member": func(s *suite) {
		full := s.member("t")
		s.fill(full.Producer)
		m, n := s.message("m"), s.message("n")
		published := start(func() error {
			_, err := s.topics().PublishTopic(s.Context(), "t", m, broker.FullHold, s.limits)
			return err
		})
		s.waits(published)
		s.publishes("t", n, 1, 0, 1)
		r := s.subscribe(full.Consumer)
		r.next(3)
		s.no(s.returned(published))
		r.received()
		if got := r.next(2)[1]; got.ID() != m.ID() {
			s.Errorf("the reader took %s", got.Line())
		}
	},
	"full members can be deleted": func(s *suite) {
		full, free := s.member("t"), s.member("t")
		s.fill(full.Producer)
		m := s.message("m")
		p, err := s.topics().PublishTopic(s.Context(), "t", m, broker.FullDelete, s.limits)
		s.no(err)
		if want := (broker.Published{Members: 2, Accepted: 1, Full: 1}); p != want {
			s.Errorf("published %+v, want %+v", p, want)
		}
		if !s.gone(full.Consumer) {
			s.Error("the full member still exists")
		}
		s.subscribe(free.Consumer).takes(m)
	},
	"a repeat reaches only those that have not had the message": func(s *suite) {
		a := s.member("t")
		s.publishes("t", s.keyed("m", "k"), 1, 1, 0)
		b := s.member("t")
		s.publishes("t", s.keyed("m", "k"), 2, 2, 0)
		s.holds(a.Consumer, 1, 0)
		s.holds(b.Consumer, 1, 0)
	},
	"a topic tells how many members are read": func(s *suite) {
		a, b := s.member("t", "u"), s.member("t")
		counts := func(connected, ofOther int) {
			s.Helper()
			if !s.eventually(func() bool { return s.topic("t").Connected == connected && s.topic("u").Connected == ofOther }) {
				s.Errorf("%+v and %+v, want %d and %d connected", s.topic("t"), s.topic("u"), connected, ofOther)
			}
		}
		counts(0, 0)
		r := s.subscribe(a.Consumer)
		counts(1, 1)
		r = s.subscribe(a.Consumer, takeOver)
		counts(1, 1)
		s.subscribe(b.Consumer)
		counts(2, 1)
		s.no(s.topics().Leave(s.Context(), a.Producer, "u"))
		counts(2, 0)
		s.joins(a, broker.Join{Topic: "u"})
		counts(2, 1)
		r.End(broker.EndClean)
		counts(1, 0)
		s.delete(b.Consumer)
		counts(0, 0)
	},
	"all topics are listed": func(s *suite) {
		a, want := s.create(), []string{}
		for i := range 23 {
			name := fmt.Sprint("list/", i, "ä")
			s.joins(a, broker.Join{Topic: name})
			want = append(want, name)
		}
		s.joins(a, broker.Join{Topic: "other"})
		var got []string
		for _, t := range s.listTopics(broker.TopicListOptions{Limit: 4, Prefix: "list/", MinMembers: 1}) {
			if got = append(got, t.Name); t.Members != 1 {
				s.Errorf("%+v", t)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			s.Errorf("the topics are %q, want %q", got, want)
		}
		if all := s.listTopics(broker.TopicListOptions{Limit: 1000}); len(all) != 24 {
			s.Errorf("there are %d topics, want 24", len(all))
		}
		if many := s.listTopics(broker.TopicListOptions{Limit: 1000, MinMembers: 2}); len(many) != 0 {
			s.Errorf("topics with two members: %+v", many)
		}
		_, err := s.topics().ListTopics(s.Context(), broker.TopicListOptions{After: "no cursor", Limit: 1})
		s.is(err, broker.ErrCursor)
	},
	"statistics count topics": func(s *suite) {
		before := implementing[broker.Statser](s).Stats()
		a := s.member("t", "u")
		s.member("t")
		s.publishes("t", s.message("1"), 2, 2, 0)
		s.publish(a.Producer, "2", "3", "4")
		s.publishes("t", s.message("5"), 2, 1, 1)
		var now broker.Stats
		if !s.within(s.pick(0, sweep), func() bool {
			now = s.Broker.(broker.Statser).Stats()
			return now.Topics == before.Topics+2 && now.Memberships == before.Memberships+3
		}) {
			s.Errorf("%d topics with %d memberships", now.Topics, now.Memberships)
		}
		if now.Published != before.Published+2 || now.Skipped != before.Skipped+1 || now.Accepted != before.Accepted+6 {
			s.Errorf("published %d, skipped %d, accepted %d", now.Published, now.Skipped, now.Accepted)
		}
	},
	"a closed Broker has no topics": func(s *suite) {
		a, t := s.member("t"), s.topics()
		s.Close()
		s.is(t.Join(s.Context(), a.Producer, broker.Join{Topic: "t"}, s.limits), broker.ErrClosed)
		s.is(t.Leave(s.Context(), a.Producer, "t"), broker.ErrClosed)
		s.is(t.KeepTopic(s.Context(), "t", broker.Keep{}, s.limits), broker.ErrClosed)
		_, err := t.PublishTopic(s.Context(), "t", s.message("m"), broker.FullMiss, s.limits)
		s.is(err, broker.ErrClosed)
		_, err = t.CreateMember(s.Context(), "agent", nil, s.limits)
		s.is(err, broker.ErrClosed)
		_, err = t.Topic(s.Context(), "t")
		s.is(err, broker.ErrClosed)
		_, err = t.ListTopics(s.Context(), broker.TopicListOptions{Limit: 1})
		s.is(err, broker.ErrClosed)
	},
	"close ends the wait for full members": func(s *suite) {
		full := s.member("t")
		s.fill(full.Producer)
		published := start(func() error {
			_, err := s.topics().PublishTopic(s.Context(), "t", s.message("m"), broker.FullHold, s.limits)
			return err
		})
		s.waits(published)
		s.Close()
		_ = s.returned(published) // what became of the other members counts
	},
}

func (s *suite) topics() broker.Topics {
	s.Helper()
	return implementing[broker.Topics](s)
}

// member creates a channel that knows topics, and is a member of some.
func (s *suite) member(topics ...string) broker.Addresses {
	s.Helper()
	var joins []broker.Join
	for _, name := range topics {
		joins = append(joins, broker.Join{Topic: name})
	}
	return s.memberOf(joins...)
}

func (s *suite) memberOf(joins ...broker.Join) broker.Addresses {
	s.Helper()
	a, err := s.topics().CreateMember(s.Context(), "agent", joins, s.limits)
	s.no(err)
	return a
}

func (s *suite) joins(a broker.Addresses, j broker.Join) {
	s.Helper()
	s.no(s.topics().Join(s.Context(), a.Producer, j, s.limits))
}

// publishes publishes a message, and checks what became of it.
func (s *suite) publishes(topic string, m *broker.Message, members, accepted, full int) {
	s.Helper()
	got, err := s.topics().PublishTopic(s.Context(), topic, m, broker.FullMiss, s.limits)
	s.no(err)
	if want := (broker.Published{Members: members, Accepted: accepted, Full: full}); got != want {
		s.Errorf("published %+v, want %+v", got, want)
	}
}

func (s *suite) topic(name string) broker.TopicInfo {
	s.Helper()
	t, err := s.topics().Topic(s.Context(), name)
	s.no(err)
	return t
}

func (s *suite) listTopics(o broker.TopicListOptions) (all []broker.TopicInfo) {
	s.Helper()
	for {
		page, err := s.topics().ListTopics(s.Context(), o)
		s.no(err)
		if len(page.Topics) > o.Limit {
			s.Fatalf("a page has %d topics, and may have %d", len(page.Topics), o.Limit)
		}
		all = append(all, page.Topics...)
		if o.After = page.Next; o.After == "" {
			return all
		}
	}
}

func (s *suite) peek(address string) []*broker.Message {
	s.Helper()
	ms, err := s.Peek(s.Context(), address, 100)
	s.no(err)
	return ms
}

// equal compares messages that a reader took.
func (s *suite) equal(want, got []*broker.Message) {
	s.Helper()
	if !same(got, want) {
		s.Fatalf("the reader took\n%s\nwant\n%s", strings.Join(lines(got), "\n"), strings.Join(lines(want), "\n"))
	}
}

// publishAll publishes messages one after the other, until one fails.
func (s *suite) publishAll(ctx context.Context, topic string, ms []*broker.Message) error {
	for _, m := range ms {
		if _, err := s.topics().PublishTopic(ctx, topic, m, broker.FullMiss, s.limits); err != nil {
			return err
		}
	}
	return nil
}
