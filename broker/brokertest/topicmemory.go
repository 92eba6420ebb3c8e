package brokertest

import (
	"fmt"
	"slices"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var topicMemoryTests = group{
	"a join brings what is kept, before all that comes later": func(s *suite) {
		t := s.topics()
		t.keep("news", 10_000, time.Hour)
		ms := t.tells("news", "1", "2", "3")
		all, last, none := t.joiner("news", broker.LastAll), t.joiner("news", 2), t.joiner("news", 0)
		many := t.create()
		t.join(many, "news", 100)
		t.join(many, "news", broker.LastAll) // has no effect
		t.has("news", 4, 0)
		later := t.tells("news", "later")[0]
		t.limits.InFlight = 10
		t.subscribe(all.Consumer).takes(append(slices.Clone(ms), later)...)
		t.subscribe(last.Consumer).takes(ms[1], ms[2], later)
		t.subscribe(none.Consumer).takes(later)
		t.subscribe(many.Consumer).takes(append(slices.Clone(ms), later)...)
	},
	"kept messages hold up no producer": func(s *suite) {
		t := s.topics()
		t.limits.Hold = 0
		t.keep("news", 1<<20, time.Hour)
		ms := t.tells("news", numbers(0, 3*t.limits.Buffer)...)
		a := t.joiner("news", broker.LastAll)
		direct := t.publish(a.Producer, "direct")[0]
		more := t.tells("news", numbers(0, t.limits.Buffer-1)...)
		t.is(t.Publish(t.Context(), a.Producer, t.message("m"), t.limits), broker.ErrTimeout)
		want := slices.Concat(ms, []*broker.Message{direct}, more)
		t.holds(a.Consumer, len(want), 0)
		r := t.subscribe(a.Consumer, acknowledged)
		for len(want) > t.limits.Buffer {
			n := min(len(want), t.limits.InFlight)
			r.takes(want[:n]...) // as many as the window lets out
			r.Settle(want[n-1].ID())
			want = want[n:]
		}
		room := t.limits.Buffer - (len(want) - t.limits.InFlight)
		r.takes(want[:t.limits.InFlight]...)
		for range room {
			t.publish(a.Producer, "now")
		}
		t.is(t.Publish(t.Context(), a.Producer, t.message("m"), t.limits), broker.ErrTimeout)
	},
	"of a long memory, a reader that breaks off loses nothing that it has not received": func(s *suite) {
		t := s.topics()
		t.keep("news", 1<<20, time.Hour)
		ms := t.tells("news", numbers(0, 7*t.limits.InFlight)...)
		a := t.joiner("news", broker.LastAll)
		n := t.limits.InFlight
		r := t.subscribe(a.Consumer)
		r.takes(ms[:n]...)
		r.Received(2)
		r.takes(ms[n : n+2]...)
		r.End(broker.EndFault)
		r = t.subscribe(a.Consumer)
		for left := ms[2:]; len(left) > 0; left = left[min(n, len(left)):] {
			r.takes(left[:min(n, len(left))]...)
			r.received()
		}
	},
	"a topic keeps its newest messages": func(s *suite) {
		t := s.topics()
		size := t.message("0").Size()
		t.keep("news", 3*size, time.Hour)
		ms := t.tells("news", "0", "1", "2", "3", "4")
		i := t.info("news")
		if i.Kept != 3 || i.KeptBytes != 3*size || i.Keep != (broker.Keep{Bytes: 3 * size, TTL: time.Hour}) {
			t.Errorf("the topic is %+v", i)
		}
		t.tell("news", t.big("large", int(4*size)), broker.FullMiss, broker.Published{})
		t.subscribe(t.joiner("news", broker.LastAll).Consumer).takes(ms[2:]...)
		t.keep("news", size, time.Hour)
		t.subscribe(t.joiner("news", broker.LastAll).Consumer).takes(ms[4])
		ms = t.tells("news", "5")
		t.subscribe(t.joiner("news", broker.LastAll).Consumer).takes(ms...)
		t.keep("news", 0, time.Hour)
		if i := t.info("news"); i.Kept != 0 || i.KeptBytes != 0 {
			t.Errorf("the topic is %+v", i)
		}
		t.subscribe(t.joiner("news", broker.LastAll).Consumer).takes()
	},
	"the limits say what a topic keeps, unless a call does": func(s *suite) {
		t := s.topics()
		size := t.message("0").Size()
		t.limits.TopicKeep = broker.Keep{Bytes: 2 * size, TTL: time.Hour}
		t.keep("set", 0, time.Hour)
		for _, topic := range []string{"set", "default"} {
			t.tells(topic, "1", "2", "3")
		}
		if set, byDefault := t.info("set"), t.info("default"); set.Kept != 0 || byDefault.Kept != 2 || byDefault.Keep != t.limits.TopicKeep {
			t.Errorf("the topics are %+v and %+v", set, byDefault)
		}
		t.limits.TopicKeep.Bytes = size // of another configuration
		t.tells("default", "4")
		if i := t.info("default"); i.Kept != 1 {
			t.Errorf("the topic is %+v", i)
		}
		keep := t.limits.TopicKeep
		t.limits.TopicKeep = broker.Keep{}
		a := t.member("closed")
		t.limits.TopicKeep = keep
		t.end("closed")
		t.leave(a, "closed")
		if i := t.info("closed"); i.Closed == "" || i.Keep != keep {
			t.Errorf("the topic is %+v", i)
		}
	},
	"kept messages take memory, each once": func(s *suite) {
		t := s.topics()
		b := implementing[broker.MemoryUser](s)
		before := b.MemoryUsed()
		t.limits.TopicKeep = broker.Keep{Bytes: 10_000, TTL: time.Hour}
		size := totalSize(t.tells("news", "1", "2"))
		wants := func(bytes int64) {
			t.Helper()
			var used int64
			if !t.eventually(func() bool { used = b.MemoryUsed() - before; return used == bytes }) {
				t.Fatalf("%d bytes are used, want %d", used, bytes)
			}
		}
		wants(size)
		if t.copies {
			t.Skip("each channel has a copy")
		}
		a := t.joiner("news", broker.LastAll)
		t.joiner("news", broker.LastAll)
		wants(size)
		r := t.subscribe(a.Consumer, acknowledged)
		r.Settle(r.next(2)[1].ID())
		wants(size)
	},
	"the delay of a kept message begins when the channel joins": func(s *suite) {
		t := s.topics()
		b := implementing[broker.Statser](s)
		if t.realTime {
			t.Skip("no time is exact")
		}
		t.keep("news", 10_000, 10*time.Hour)
		t.keep("other", 10_000, 10*time.Hour)
		t.tells("news", "1", "2")
		t.tells("other", "3")
		time.Sleep(time.Hour)
		a := t.joiner("news", broker.LastAll)
		time.Sleep(30 * time.Second)
		t.join(a, "other", broker.LastAll)
		time.Sleep(time.Second)
		t.subscribe(a.Consumer).next(3)
		if delay := b.Stats().DeliveryDelay; delay.Count != 3 || delay.Sum != (31+31+1)*time.Second {
			t.Errorf("%d messages took %v", delay.Count, delay.Sum)
		}
	},
	"a topic that is gone takes no memory": func(s *suite) {
		t := s.topics()
		b := implementing[broker.MemoryUser](s)
		before := b.MemoryUsed()
		for i := range 3 {
			t.keep("news", 10_000, time.Hour)
			t.keep("news", 20_000, time.Hour)
			a := t.member("news")
			t.tells("news", "1", "2")
			if i > 0 {
				t.end("news")
			}
			t.delete(a.Consumer)
			t.keep("news", 0, 0)
			t.nothing("news")
			if used := b.MemoryUsed(); used != before {
				t.Fatalf("%d bytes are used, want %d", used, before)
			}
		}
	},
	"a topic without members forgets after a while": forgetsAfterAWhile,
	"a join brings nothing of a topic whose time is over": func(s *suite) {
		t := s.topics()
		ttl := t.pick(time.Hour+sweep/3, 500*time.Millisecond) // so that it was not swept yet
		t.keep("news", 10_000, ttl)
		t.tells("news", "1")
		t.end("news")
		time.Sleep(ttl)
		a := t.joiner("news", broker.LastAll)
		t.holds(a.Consumer, 0, 0)
		if i := t.info("news"); i.Members != 1 || i.Kept != 0 || i.Closed != "" {
			t.Errorf("the topic is %+v", i)
		}
	},
	"who joins a closed topic with what it keeps gets the end, too": func(s *suite) {
		t := s.topics()
		t.keep("news", 10_000, time.Hour)
		ms := t.tells("news", "1", "2")
		end := t.end("news")
		t.limits.InFlight = 10
		t.subscribe(t.joiner("news", broker.LastAll).Consumer).takes(ms[0], ms[1], end)
		t.subscribe(t.joiner("news", 1).Consumer).takes(ms[1], end)
		t.subscribe(t.joiner("news", 0).Consumer).takes()
		a := t.create()
		t.join(a, "news", broker.LastAll)
		t.subscribe(a.Consumer).takes(ms...)
	},
	"a keyed message is kept once": func(s *suite) {
		t := s.topics()
		size := t.keyed("m", "1").Size()
		t.keep("news", 2*size, time.Hour)
		one, two, three := t.keyed("1", "1"), t.keyed("2", "2"), t.keyed("3", "3")
		for _, m := range []*broker.Message{one, one, two, t.keyed("1", "1"), three, one, two} {
			t.tell("news", m, broker.FullMiss, broker.Published{})
		}
		a := t.joiner("news", broker.LastAll)
		t.subscribe(a.Consumer).takes(two, three)
		t.tell("news", two, broker.FullMiss, accepted)
		t.holds(a.Consumer, 0, 2)
	},
	"a channel that joins again gets again what is kept, without duplicates": func(s *suite) {
		t := s.topics()
		t.limits.InFlight = 20
		t.keep("news", 10_000, time.Hour)
		a := t.member("news")
		keyed, plain := t.keyed("1", "key"), t.message("2")
		t.tell("news", keyed, broker.FullMiss, accepted)
		t.tell("news", plain, broker.FullMiss, accepted)
		t.leave(a, "news")
		missing := t.keyed("3", "missing")
		t.tell("news", missing, broker.FullMiss, broker.Published{})
		t.join(a, "news", broker.LastAll)
		r := t.subscribe(a.Consumer)
		got := r.next(4)
		if !same(got[:2], []*broker.Message{keyed, plain}) || !sameBut(got[2], plain) || !same(got[3:], []*broker.Message{missing}) {
			t.Errorf("the reader took %q, want %q and the second one again", lines(got), lines([]*broker.Message{keyed, plain, missing}))
		}
		r.takes()
	},
	"a cursor shows one message, though a kept one comes once more": func(s *suite) {
		t := s.topics()
		t.keep("news", 10_000, time.Hour)
		a := t.member("news")
		first := t.message("first")
		t.tell("news", first, broker.FullMiss, accepted)
		r := t.subscribe(a.Consumer, follow)
		r.takes(first)
		r.End(broker.EndFault)
		between := t.message("between")
		t.send(a.Producer, between)
		t.leave(a, "news")
		t.join(a, "news", broker.LastAll)
		var last *broker.Message
		for range 3 { // the consumer does not see what it is sent
			r := t.subscribe(a.Consumer, follow, after(first.ID().String()))
			got := r.next(2)
			if !same(got[:1], []*broker.Message{between}) || !sameBut(got[1], first) {
				t.Errorf("the reader took %q, want %q and the first one again", lines(got), between.Line())
			}
			r.End(broker.EndFault)
			last = got[1]
		}
		t.subscribe(a.Consumer, after(last.ID().String())).takes()
		t.holds(a.Consumer, 0, 0)
	},
	"a kept one comes once more to a channel that has settled it": func(s *suite) {
		t := s.topics()
		t.keep("news", 10_000, time.Hour)
		a := t.member("news")
		first := t.message("first")
		t.tell("news", first, broker.FullMiss, accepted)
		r := t.subscribe(a.Consumer, follow)
		r.takes(first)
		r.Settle(first.ID())
		t.holds(a.Consumer, 0, 0)
		r.End(broker.EndFault)
		end := t.end("news")
		t.holds(a.Consumer, 1, 0)
		for range 2 { // it gets the end once more, too
			t.leave(a, "news")
			t.join(a, "news", broker.LastAll)
		}
		t.limits.InFlight = 10
		r = t.subscribe(a.Consumer, after(first.ID().String()))
		r.resumes(broker.ResumeComplete)
		got := r.next(5)
		want := []*broker.Message{end, first, end, first, end}
		for i, m := range got {
			if !sameBut(m, want[i]) || m.ID() == first.ID() || slices.ContainsFunc(got[:i], func(o *broker.Message) bool { return o.ID() == m.ID() }) {
				t.Fatalf("the reader took %q", lines(got))
			}
		}
		r.End(broker.EndFault)
		t.subscribe(a.Consumer, after(got[3].ID().String())).takes(got[4])
	},
	"topics keep at most half of the memory": func(s *suite) {
		t := s.topics()
		if t.copies {
			t.Skip("this Broker counts memory in its own way")
		}
		size := t.big("m", 1000).Size()
		t.limits.MaxMemory = 20 * size
		for i := range 4 {
			t.keep(fmt.Sprint(i), 100*size, time.Hour)
		}
		var last *broker.Message
		for i := range 40 {
			last = t.big("m", 1000)
			t.tell(fmt.Sprint(i%4), last, broker.FullMiss, broker.Published{})
			var kept int64
			for i := range 4 {
				kept += t.info(fmt.Sprint(i)).KeptBytes
			}
			if kept <= min(int64(i), 9)*size || kept > 10*size {
				t.Fatalf("after %d messages of %d bytes, %d bytes are kept, with a limit of %d", i+1, size, kept, t.limits.MaxMemory)
			}
		}
		t.subscribe(t.joiner("3", 1).Consumer).takes(last) // one that is published to has room for its newest messages
		t.publish(t.create().Producer, "m")                // there is memory for others
	},
}

// forgetsAfterAWhile: a publish, the end and a setting of the memory begin the time anew.
func forgetsAfterAWhile(s *suite) {
	t := s.topics()
	ttl := t.pick(time.Hour, 500*time.Millisecond)
	want := map[string]broker.TopicInfo{"published": {Kept: 2}, "set": {Kept: 1}, "closed": {Kept: 1, Closed: broker.EndDone}}
	start := time.Now()
	for topic := range want {
		t.keep(topic, 10_000, ttl)
		t.tells(topic, "1")
	}
	t.keep("member", 10_000, ttl)
	a := t.member("member")
	t.subscribe(a.Consumer) // so it does not expire
	t.tells("member", "1")
	time.Sleep(ttl / 2)
	begun := time.Now()
	t.tells("published", "2")
	t.keep("set", 10_000, ttl)
	end := t.end("closed")
	late := time.Since(start) >= ttl // on a slow machine they may have been gone
	time.Sleep(ttl*3/4 - time.Since(begun))
	for topic, want := range want {
		if i := t.info(topic); !late && time.Since(begun) < ttl && (i.Kept != want.Kept || i.Closed != want.Closed) {
			t.Errorf("the topic is %+v", i)
		}
	}
	time.Sleep(ttl - time.Since(begun))
	for topic := range want {
		t.nothing(topic)
	}
	t.tell("closed", end, broker.FullMiss, broker.Published{}) // it is not closed any more
	if i := t.info("member"); i.Kept != 1 {
		t.Errorf("the topic with a member is %+v", i)
	}
	t.leave(a, "member") // later than ttl after the last publish
	t.nothing("member")
	if b, ok := t.Broker.(broker.Statser); ok && !t.within(sweep, func() bool {
		stats := b.Stats()
		return stats.Topics == 0 && stats.KeptBytes == 0
	}) {
		t.Errorf("the statistics are %+v", b.Stats())
	}
}
