package brokertest

import (
	"fmt"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var topicMemoryTests = group{
	"a join brings what the topic keeps": func(s *suite) {
		s.limits.TopicKeep = broker.Keep{Bytes: 1 << 20, TTL: time.Minute}
		var ms []*broker.Message
		for i := range 10 {
			ms = append(ms, s.message(fmt.Sprint(i)))
		}
		s.no(s.publishAll(s.Context(), "t", ms))
		s.limits.InFlight = 100
		all, three, none, old := s.memberOf(broker.Join{Topic: "t", Last: broker.LastAll}),
			s.memberOf(broker.Join{Topic: "t", Last: 3}), s.member("t"), s.create()
		s.joins(old, broker.Join{Topic: "t", Last: 20})
		s.joins(three, broker.Join{Topic: "t", Last: broker.LastAll}) // it is a member already
		last := s.message("last")
		s.publishes("t", last, 4, 4, 0)
		s.subscribe(all.Consumer).takes(append(ms[:10:10], last)...)
		s.subscribe(three.Consumer).takes(append(ms[7:10:10], last)...)
		s.subscribe(none.Consumer).takes(last)
		s.subscribe(old.Consumer).takes(append(ms[:10:10], last)...)
	},
	"what a join brings holds up no producer": func(s *suite) {
		s.limits.TopicKeep = broker.Keep{Bytes: 1 << 20, TTL: time.Minute}
		s.limits.Hold = 0
		var kept []*broker.Message
		for i := range 10 {
			kept = append(kept, s.message(fmt.Sprint("kept ", i)))
		}
		s.no(s.publishAll(s.Context(), "t", kept))
		a := s.create()
		want := s.publish(a.Producer, "0", "1")
		s.joins(a, broker.Join{Topic: "t", Last: broker.LastAll})
		want = append(append(want, kept...), s.publish(a.Producer, "2", "3")...)
		s.is(s.Publish(s.Context(), a.Producer, s.message("4"), s.limits), broker.ErrTimeout)
		r := s.subscribe(a.Consumer, acknowledged)
		s.equal(want[:3], r.next(3)) // two that count, and one that does not
		want = append(want, s.publish(a.Producer, "4", "5")...)
		s.is(s.Publish(s.Context(), a.Producer, s.message("6"), s.limits), broker.ErrTimeout)
		for n := 3; n < len(want); n += 3 {
			r.Settle(want[n-1].ID())
			end := min(n+3, len(want))
			s.equal(want[n:end], r.next(end-n))
		}
	},
	"a topic keeps its newest messages": func(s *suite) {
		one := s.big("one", 1000)
		s.no(s.topics().KeepTopic(s.Context(), "t", broker.Keep{Bytes: 3 * one.Size(), TTL: time.Minute}, s.limits))
		var ms []*broker.Message
		for range 5 {
			ms = append(ms, s.big("one", 1000))
		}
		s.no(s.publishAll(s.Context(), "t", ms))
		s.keeps("t", 3)
		s.publishes("t", s.big("too big", 4000), 0, 0, 0)
		s.subscribe(s.memberOf(broker.Join{Topic: "t", Last: broker.LastAll}).Consumer).takes(ms[2:]...)
		s.no(s.topics().KeepTopic(s.Context(), "t", broker.Keep{Bytes: one.Size(), TTL: time.Minute}, s.limits))
		s.keeps("t", 1)
		s.subscribe(s.memberOf(broker.Join{Topic: "t", Last: broker.LastAll}).Consumer).takes(ms[4])
		s.no(s.topics().KeepTopic(s.Context(), "t", broker.Keep{TTL: time.Minute}, s.limits))
		s.keeps("t", 0)
	},
	"a memory lives its time after the last message, and while there is a member": func(s *suite) {
		ttl := s.pick(time.Minute, 800*time.Millisecond)
		s.limits.TopicKeep = broker.Keep{Bytes: 1 << 20, TTL: ttl}
		s.no(s.publishAll(s.Context(), "t", []*broker.Message{s.message("1")}))
		time.Sleep(ttl / 2)
		s.keeps("t", 1)
		s.limits.TTL = time.Hour
		a := s.member("t")
		time.Sleep(ttl / 4)
		s.no(s.publishAll(s.Context(), "t", []*broker.Message{s.message("2")}))
		s.delete(a.Producer)
		time.Sleep(ttl / 2)
		s.keeps("t", 2)
		if !s.within(ttl/2+sweep, func() bool { return s.topic("t").Kept == 0 }) {
			s.Errorf("the topic is %+v", s.topic("t"))
		}
		s.no(s.publishAll(s.Context(), "t", []*broker.Message{s.message("3")}))
		a = s.member("t")
		time.Sleep(ttl * 5 / 4)
		s.keeps("t", 1)
		s.no(s.topics().Leave(s.Context(), a.Producer, "t"))
		if !s.within(sweep, func() bool { return s.topic("t").Kept == 0 }) {
			s.Errorf("the topic is %+v", s.topic("t"))
		}
	},
	"a topic keeps a repeat once": func(s *suite) {
		s.limits.TopicKeep = broker.Keep{Bytes: 1 << 20, TTL: time.Minute}
		for range 3 {
			s.publishes("t", s.keyed("m", "k"), 0, 0, 0)
		}
		s.keeps("t", 1)
	},
	"kept messages count as memory": func(s *suite) {
		used := implementing[broker.MemoryUser](s)
		before := used.MemoryUsed()
		s.limits.TopicKeep = broker.Keep{Bytes: 1 << 20, TTL: time.Minute}
		m := s.big("m", 10_000)
		s.publishes("t", m, 0, 0, 0)
		a := s.memberOf(broker.Join{Topic: "t", Last: broker.LastAll})
		if got := used.MemoryUsed() - before; got != m.Size() {
			s.Errorf("%d bytes are used, want %d", got, m.Size())
		}
		s.no(s.topics().KeepTopic(s.Context(), "t", broker.Keep{TTL: time.Minute}, s.limits))
		s.delete(a.Producer)
		if got := used.MemoryUsed() - before; got >= m.Size() {
			s.Errorf("%d bytes are used after all of it is gone", got)
		}
	},
	"all topics together keep half of the memory": func(s *suite) {
		used := implementing[broker.MemoryUser](s)
		s.limits.TopicKeep = broker.Keep{Bytes: 1 << 20, TTL: time.Minute}
		s.limits.MaxMemory = 100_000
		for i := range 200 {
			s.publishes(fmt.Sprint("t", i%3), s.big("m", 1000), 0, 0, 0)
		}
		if got := used.MemoryUsed(); got > 51_000 || got < 40_000 {
			s.Errorf("topics keep %d bytes of 100,000", got)
		}
	},
	"without memory nothing is published": func(s *suite) {
		implementing[broker.MemoryUser](s)
		a, b := s.member("t"), s.create()
		s.limits.MaxMemory = 1000
		s.send(b.Producer, s.big("m", 2000))
		_, err := s.topics().PublishTopic(s.Context(), "t", s.message("m"), broker.FullMiss, s.limits)
		s.is(err, broker.ErrMemoryLimit)
		s.holds(a.Consumer, 0, 0)
	},
	"the end of a topic reaches those that know topics": func(s *suite) {
		full, free, old := s.member("t"), s.member("t"), s.create()
		s.joins(old, broker.Join{Topic: "t"})
		filled := s.fill(full.Producer)
		s.publishes("t", s.message("missed"), 3, 2, 1)
		end := s.end("t", broker.EndAborted)
		s.no(s.topics().CloseTopic(s.Context(), "t", end, s.limits))
		s.no(s.topics().CloseTopic(s.Context(), "t", s.end("t", broker.EndDone), s.limits))
		_, err := s.topics().PublishTopic(s.Context(), "t", s.message("m"), broker.FullMiss, s.limits)
		s.is(err, broker.ErrTopicClosed)
		s.limits.InFlight = 10
		s.equal(append(filled[:4:4], end.Missed(1)), s.subscribe(full.Consumer).next(5))
		s.equal([]*broker.Message{end}, s.subscribe(free.Consumer).next(2)[1:])
		s.holds(old.Consumer, 1, 0)
		if got := s.topic("t"); got.Closed != broker.EndAborted || got.Members != 3 {
			s.Errorf("the topic is %+v", got)
		}
	},
	"who joins after the end gets what is kept, and the end": func(s *suite) {
		s.limits.TopicKeep = broker.Keep{Bytes: 1 << 20, TTL: time.Minute}
		m, end := s.message("m"), s.end("stream", broker.EndDone)
		s.publishes("t", m, 0, 0, 0)
		s.no(s.topics().CloseTopic(s.Context(), "t", end, s.limits))
		a, without := s.memberOf(broker.Join{Topic: "t", Last: broker.LastAll}), s.member("t")
		s.subscribe(a.Consumer).takes(m, end)
		s.holds(without.Consumer, 0, 0)
		s.delete(a.Producer)
		s.delete(without.Producer)
		if got := s.topic("t"); got.Closed != broker.EndDone {
			s.Errorf("the topic with a memory is %+v", got)
		}
	},
	"a topic without members and memory forgets that it was closed": func(s *suite) {
		a := s.member("t")
		s.no(s.topics().CloseTopic(s.Context(), "t", s.end("t", broker.EndDone), s.limits))
		s.no(s.topics().Leave(s.Context(), a.Producer, "t"))
		s.publishes("t", s.message("m"), 0, 0, 0)
		if got := s.topic("t"); got.Closed != "" {
			s.Errorf("the topic is %+v", got)
		}
	},
	"kept messages are merged while they are pending": func(s *suite) {
		s.limits.TopicKeep = broker.Keep{Bytes: 1 << 20, TTL: time.Minute}
		var last *broker.Message
		for _, piece := range []string{`"a"`, `"b"`, `"c"`} {
			last = s.appends("s", piece)
			s.publishes("t", last, 0, 0, 0)
		}
		s.keeps("t", 3)
		a := s.memberOf(broker.Join{Topic: "t", Last: broker.LastAll})
		s.subscribe(a.Consumer).takes(s.withBody(last, `"abc"`))
	},
	"a slow member gets larger pieces": func(s *suite) {
		a, b := s.member("t"), s.member("t")
		r := s.subscribe(a.Consumer)
		var pieces []*broker.Message
		for i := range 20 {
			piece := s.appends("s", fmt.Sprintf(`"%d,"`, i))
			s.publishes("t", piece, 2, 2, 0)
			if i == 0 {
				s.equal([]*broker.Message{piece}, r.next(1))
			}
			pieces = append(pieces, piece)
		}
		s.equal([]*broker.Message{s.withBody(pieces[19], `"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,"`)}, r.next(1))
		s.subscribe(b.Consumer).takes(s.withBody(pieces[19], `"0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,"`))
	},
	"the first member and the last one's leaving are reported": func(s *suite) {
		source := implementing[broker.TopicSource](s)
		events := make(chan []broker.TopicEvent, 100)
		source.OnTopics(func(batch []broker.TopicEvent) { events <- batch })
		a, b := s.member("t"), s.member("t")
		s.no(s.topics().Leave(s.Context(), a.Producer, "t"))
		s.delete(b.Producer)
		s.member("t")
		var got []broker.TopicEvent
		want := []broker.TopicEvent{{Topic: "t", Members: 1}, {Topic: "t"}, {Topic: "t", Members: 1}}
		s.within(sweep, func() bool {
			select {
			case batch := <-events:
				got = append(got, batch...)
			default:
			}
			return len(got) >= len(want)
		})
		if fmt.Sprint(got) != fmt.Sprint(want) {
			s.Errorf("reported %v, want %v", got, want)
		}
	},
	"a channel may have a time to live of its own": func(s *suite) {
		s.limits.ChannelTTL = s.pick(time.Hour, 600*time.Millisecond)
		before := time.Now()
		a := s.create()
		s.isTime("the time of expiry", s.state(a.Consumer).Expires, before.Add(s.limits.ChannelTTL), time.Now().Add(s.limits.ChannelTTL))
		ttl := s.limits.ChannelTTL
		s.limits.ChannelTTL, s.limits.TTL = 0, s.pick(time.Minute, time.Hour)
		r := s.subscribe(a.Consumer)
		before = time.Now()
		r.End(broker.EndClean)
		s.livesFor(a, before, ttl)
	},
}

func (s *suite) end(streamID, how string) *broker.Message {
	s.Helper()
	m, err := broker.NewEnd(streamID, how)
	s.no(err)
	return m
}

func (s *suite) keeps(topic string, messages int) {
	s.Helper()
	if got := s.topic(topic); got.Kept != messages {
		s.Errorf("the topic keeps %d messages, want %d", got.Kept, messages)
	}
}
