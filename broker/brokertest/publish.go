package brokertest

import (
	"context"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var publishTests = map[string]func(*suite){
	"messages are taken in the order of their publishing": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2")
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		r.takes(s.publish(a.Producer, "3")...)
	},
	"a full channel holds producers, first come first served": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		first := s.hold(s.Context(), a.Producer, "first")
		second := s.hold(s.Context(), a.Producer, "second")
		r := s.subscribe(a.Consumer)
		ms, _ := r.Take(nil, 1)
		r.Received(len(ms))
		s.no(s.returned(first))
		s.waits(second)
		more, _ := r.Take(nil, 1)
		r.Received(len(ms) + len(more))
		s.no(s.returned(second))
		s.holds(a.Consumer, s.limits.Buffer, 2)
	},
	"a producer is held for the hold time, and leaves nothing behind": func(s *suite) {
		a := s.create()
		ms := s.fill(a.Producer)
		held := s.hold(s.Context(), a.Producer, "held")
		time.Sleep(s.limits.Hold - time.Nanosecond)
		s.waits(held)
		time.Sleep(time.Nanosecond)
		s.is(s.returned(held), broker.ErrTimeout)
		r := s.subscribe(a.Consumer)
		r.takes(ms[:s.limits.InFlight]...)
		r.received()
		r.takes(ms[s.limits.InFlight:]...)
	},
	"without a hold time a full channel refuses at once": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		s.limits.Hold = 0
		s.is(s.Publish(s.Context(), a.Producer, s.message("m"), s.limits), broker.ErrTimeout)
	},
	"a producer that goes while it is held leaves nothing behind": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		ctx, cancel := context.WithCancel(s.Context())
		gone := s.hold(ctx, a.Producer, "gone")
		stays := s.hold(s.Context(), a.Producer, "stays")
		cancel()
		s.is(s.returned(gone), context.Canceled)
		r := s.subscribe(a.Consumer)
		r.Take(nil, 1)
		s.no(s.returned(stays))
	},
	"only pending messages hold producers": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		r := s.subscribe(a.Consumer)
		r.takeAll()
		s.holds(a.Consumer, s.limits.Buffer-s.limits.InFlight, s.limits.InFlight)
		s.publish(a.Producer, numbers(0, s.limits.InFlight)...)
		s.hold(s.Context(), a.Producer, "held")
		r.End(broker.EndFault)
		time.Sleep(s.limits.Hold)
	},
	"a larger buffer of a newer configuration counts": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		s.limits.Buffer++
		s.publish(a.Producer, "one more")
		s.hold(s.Context(), a.Producer, "held")
		time.Sleep(s.limits.Hold)
	},
	"the next in line gets in when the first, for whom there is no room, goes": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		ctx, cancel := context.WithCancel(s.Context())
		first := s.hold(ctx, a.Producer, "first")
		s.limits.Buffer++
		second := s.hold(s.Context(), a.Producer, "second")
		cancel()
		s.is(s.returned(first), context.Canceled)
		s.no(s.returned(second))
	},
}

// A Broker may leave all messages to Publish. What it takes is published, and what it does not take has left no trace.
var publishNowTests = map[string]func(*suite){
	"what is taken stands in order with what else is published": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1")
		m := s.message("2")
		if s.PublishNow(a.Producer, m, s.limits) {
			ms = append(ms, m)
		}
		ms = append(ms, s.publish(a.Producer, "3")...)
		s.subscribe(a.Consumer).takes(ms...)
	},
	"a full channel takes nothing, and refuses nothing": func(s *suite) {
		a := s.create()
		ms := s.fill(a.Producer)
		if s.PublishNow(a.Producer, s.message("m"), s.limits) {
			s.Error("there was no room")
		}
		s.holds(a.Consumer, len(ms), 0)
	},
	"nobody overtakes who is held": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		held := s.hold(s.Context(), a.Producer, "held")
		s.limits.Buffer++
		if s.PublishNow(a.Producer, s.message("m"), s.limits) {
			s.Error("it stands before the message that is held")
		}
		s.waits(held)
	},
	"a repeat is dropped": func(s *suite) {
		a := s.create()
		first := s.keyed("m", "key")
		s.no(s.Publish(s.Context(), a.Producer, first, s.limits))
		s.PublishNow(a.Producer, s.keyed("m", "key"), s.limits)
		s.subscribe(a.Consumer).takes(first)
		s.holds(a.Consumer, 0, 1)
	},
	"there is no such channel": func(s *suite) {
		a := s.create()
		for _, address := range []string{"", "agent.nothing", a.Consumer} {
			if s.PublishNow(address, s.message("m"), s.limits) {
				s.Errorf("%q has taken a message", address)
			}
		}
		s.holds(a.Consumer, 0, 0)
	},
}

var batchTests = map[string]func(*suite){
	"every message goes to every channel, in order": func(s *suite) {
		a, b := s.create(), s.create()
		ms := []*broker.Message{s.message("1"), s.message("2")}
		for _, outcome := range s.PublishBatch(s.Context(), []string{a.Producer, b.Producer}, ms, s.limits) {
			if outcome != (broker.Outcome{Accepted: 2}) {
				s.Errorf("outcome %+v", outcome)
			}
		}
		s.subscribe(a.Consumer).takes(ms...)
		s.subscribe(b.Consumer).takes(ms...)
	},
	"outcomes stand in the order of the channels": func(s *suite) {
		a, full := s.create(), s.create()
		s.fill(full.Producer)
		outcomes := s.PublishBatch(s.Context(), []string{"agent.nothing", full.Producer, a.Producer},
			[]*broker.Message{s.message("m")}, s.limits)
		s.is(outcomes[0].Err, broker.ErrNotFound)
		s.is(outcomes[1].Err, broker.ErrTimeout)
		s.no(outcomes[2].Err)
	},
	"all channels share one hold time, and one does not wait for another": func(s *suite) {
		full, other, free := s.create(), s.create(), s.create()
		s.fill(full.Producer)
		s.fill(other.Producer)
		ms := []*broker.Message{s.message("1"), s.message("2"), s.message("3")}
		outcomes := make(chan []broker.Outcome, 1)
		start := time.Now()
		go func() {
			outcomes <- s.PublishBatch(s.Context(), []string{full.Producer, other.Producer, free.Producer}, ms, s.limits)
		}()
		s.holds(free.Consumer, 3, 0)
		time.Sleep(s.limits.Hold / 2)
		s.subscribe(other.Consumer).Take(nil, 1)
		got := <-outcomes
		if time.Since(start) != s.limits.Hold {
			s.Errorf("took %v, want the hold time", time.Since(start))
		}
		for i, accepted := range []int{0, 1, 3} {
			if got[i].Accepted != accepted {
				s.Errorf("channel %d has accepted %d, want %d", i, got[i].Accepted, accepted)
			}
		}
	},
	"a call that ends early keeps what was accepted": func(s *suite) {
		a := s.create()
		ctx, cancel := context.WithTimeout(s.Context(), time.Second)
		defer cancel()
		var ms []*broker.Message
		for _, name := range numbers(0, s.limits.Buffer+1) {
			ms = append(ms, s.message(name))
		}
		outcome := s.PublishBatch(ctx, []string{a.Producer}, ms, s.limits)[0]
		s.is(outcome.Err, context.DeadlineExceeded)
		if outcome.Accepted != s.limits.Buffer {
			s.Errorf("accepted %d, want %d", outcome.Accepted, s.limits.Buffer)
		}
		s.holds(a.Consumer, s.limits.Buffer, 0)
	},
	"no channels and no messages are fine": func(s *suite) {
		a := s.create()
		if got := s.PublishBatch(s.Context(), nil, []*broker.Message{s.message("m")}, s.limits); len(got) != 0 {
			s.Errorf("outcomes %v", got)
		}
		s.no(s.PublishBatch(s.Context(), []string{a.Producer}, nil, s.limits)[0].Err)
	},
}

var ingestTests = map[string]func(*suite){
	"messages go to their channels in order": func(s *suite) {
		a, b := s.create(), s.create()
		in := s.Ingest(s.limits)
		ms := []*broker.Message{s.message("1"), s.message("2"), s.message("3")}
		for i, producer := range []string{a.Producer, b.Producer, a.Producer} {
			s.no(in.Write(s.Context(), i, []byte(producer), ms[i]))
		}
		if result := in.Finish(s.Context()); result.Written != 3 || result.FailuresTotal != 0 {
			s.Errorf("result %+v", result)
		}
		s.subscribe(a.Consumer).takes(ms[0], ms[2])
		s.subscribe(b.Consumer).takes(ms[1])
	},
	"a full channel holds back its own messages only": func(s *suite) {
		full, free := s.create(), s.create()
		before := s.fill(full.Producer)
		in := s.Ingest(s.limits)
		held, other := s.message("held"), s.message("other")
		s.no(in.Write(s.Context(), 0, []byte(full.Producer), held))
		s.no(in.Write(s.Context(), 1, []byte(free.Producer), other))
		s.subscribe(free.Consumer).takes(other)
		r := s.subscribe(full.Consumer)
		r.takes(before[:s.limits.InFlight]...)
		r.received()
		r.takes(append(before[s.limits.InFlight:], held)...)
		if result := in.Finish(s.Context()); result.Written != 2 {
			s.Errorf("result %+v", result)
		}
	},
	"a message held back for the hold time fails, and those behind it are skipped": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		in := s.Ingest(s.limits)
		s.no(in.Write(s.Context(), 0, []byte(a.Producer), s.message("1")))
		time.Sleep(s.limits.Hold / 2)
		s.no(in.Write(s.Context(), 1, []byte(a.Producer), s.message("2")))
		s.no(in.Write(s.Context(), 2, []byte("agent.nothing"), s.message("3")))
		start := time.Now()
		result := in.Finish(s.Context())
		if took := time.Since(start); took != s.limits.Hold/2 {
			s.Errorf("finished after %v", took)
		}
		if len(result.Failures) != 3 || result.FailuresTotal != 3 || result.Written != 0 {
			s.Fatalf("result %+v", result)
		}
		for i, want := range []error{broker.ErrTimeout, broker.ErrSkipped, broker.ErrNotFound} {
			if f := result.Failures[i]; f.Number != i {
				s.Errorf("failure %d has number %d", i, f.Number)
			} else {
				s.is(f.Err, want)
			}
		}
	},
	"a stream that holds back too much is not read on": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		in := s.Ingest(s.limits)
		written := make(chan error, 1)
		go func() {
			var err error
			for i := range 3 {
				err = in.Write(s.Context(), i, []byte(a.Producer), s.big("large", 600<<10))
			}
			written <- err
		}()
		s.waits(written)
		r := s.subscribe(a.Consumer)
		r.takeAll()
		s.no(s.returned(written))
		r.received()
		r.takeAll()
		if result := in.Finish(s.Context()); result.Written != 3 {
			s.Errorf("result %+v", result)
		}
	},
	"a stream that is given up leaves nothing held back": func(s *suite) {
		a := s.create()
		before := s.fill(a.Producer)
		in := s.Ingest(s.limits)
		s.no(in.Write(s.Context(), 0, []byte(a.Producer), s.message("held")))
		ctx, cancel := context.WithCancel(s.Context())
		cancel()
		if result := in.Finish(ctx); result.Written != 0 || result.FailuresTotal != 1 {
			s.Errorf("result %+v", result)
		}
		r := s.subscribe(a.Consumer)
		r.takes(before[:s.limits.InFlight]...)
		r.received()
		r.takes(before[s.limits.InFlight:]...)
	},
}
