package brokertest

import (
	"context"
	"fmt"
	"slices"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var keyedTests = map[string]func(*suite){
	"a repeated key is dropped while the first is pending, in flight or just settled": func(s *suite) {
		a := s.create()
		first, repeat := s.keyed("m", "key"), s.keyed("m", "key")
		if first.ID() != repeat.ID() {
			s.Fatalf("event ids %v and %v of one key", first.ID(), repeat.ID())
		}
		s.no(s.Publish(s.Context(), a.Producer, first, s.limits))
		s.no(s.Publish(s.Context(), a.Producer, repeat, s.limits))
		s.holds(a.Consumer, 1, 0)
		r := s.subscribe(a.Consumer)
		r.takes(first)
		s.no(s.Publish(s.Context(), a.Producer, repeat, s.limits))
		r.takes()
		r.received()
		r.End(broker.EndClean)
		s.no(s.Publish(s.Context(), a.Producer, repeat, s.limits))
		s.holds(a.Consumer, 0, 0)
	},
	"a key counts for its channel only": func(s *suite) {
		a, b := s.create(), s.create()
		s.no(s.Publish(s.Context(), a.Producer, s.keyed("m", "key"), s.limits))
		s.no(s.Publish(s.Context(), b.Producer, s.keyed("m", "key"), s.limits))
		s.holds(b.Consumer, 1, 0)
	},
	"a repeated key is dropped when the first was held": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		results := make(chan error, 2)
		for range 2 {
			m := s.keyed("m", "key")
			go func() { results <- s.Publish(s.Context(), a.Producer, m, s.limits) }()
		}
		s.waits(results)
		r := s.subscribe(a.Consumer)
		r.Take(nil, 1)
		s.no(s.returned(results))
		s.no(s.returned(results))
		s.holds(a.Consumer, s.limits.Buffer, 1)
	},
	"a repeated key is dropped at once though others are held": func(s *suite) {
		a := s.create()
		s.no(s.Publish(s.Context(), a.Producer, s.keyed("m", "key"), s.limits))
		s.publish(a.Producer, numbers(1, s.limits.Buffer)...)
		held := s.hold(s.Context(), a.Producer, "held")
		start := time.Now()
		s.no(s.Publish(s.Context(), a.Producer, s.keyed("m", "key"), s.limits))
		in := s.Ingest(s.limits)
		s.no(in.Write(s.Context(), 0, []byte(a.Producer), s.keyed("m", "key")))
		if result := in.Finish(s.Context()); result.Written != 1 {
			s.Errorf("result %+v", result)
		}
		s.no(s.PublishBatch(s.Context(), []string{a.Producer}, nil, s.limits)[0].Err)
		if took := time.Since(start); took > 0 {
			s.Errorf("waited for %v", took)
		}
		s.is(<-held, broker.ErrTimeout)
		s.holds(a.Consumer, s.limits.Buffer, 0)
	},
	"a held repeat is not refused when the first gets in meanwhile": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		results := make(chan error, 2)
		publish := func() { results <- s.Publish(s.Context(), a.Producer, s.keyed("m", "key"), s.limits) }
		go publish()
		synctest.Wait()
		between := s.hold(s.Context(), a.Producer, "between")
		go publish()
		s.waits(results)
		s.subscribe(a.Consumer).Take(nil, 1)
		s.no(s.returned(results))
		s.waits(results)
		s.is(<-between, broker.ErrTimeout)
		s.no(<-results)
		s.holds(a.Consumer, s.limits.Buffer, 1)
	},
	"a held repeat takes the place of a first that goes": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		ctx, cancel := context.WithCancel(s.Context())
		first, repeat := make(chan error, 1), make(chan error, 1)
		go func() { first <- s.Publish(ctx, a.Producer, s.keyed("m", "key"), s.limits) }()
		synctest.Wait()
		go func() { repeat <- s.Publish(s.Context(), a.Producer, s.keyed("m", "key"), s.limits) }()
		s.waits(repeat)
		cancel()
		s.is(s.returned(first), context.Canceled)
		s.waits(repeat)
		s.subscribe(a.Consumer).Take(nil, 1)
		s.no(s.returned(repeat))
		s.holds(a.Consumer, s.limits.Buffer, 1)
	},
	"a repeated key is taken when the first was given up": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		ctx, cancel := context.WithTimeout(s.Context(), time.Second)
		defer cancel()
		s.is(s.Publish(ctx, a.Producer, s.keyed("m", "key"), s.limits), context.DeadlineExceeded)
		r := s.subscribe(a.Consumer)
		r.Take(nil, 1)
		s.no(s.Publish(s.Context(), a.Producer, s.keyed("m", "key"), s.limits))
		s.holds(a.Consumer, s.limits.Buffer, 1)
	},
	"a repeated key is dropped however the first was let go": func(s *suite) {
		for how, letGo := range lettingGo {
			a := s.create()
			first := s.keyed("first", "key")
			s.no(s.Publish(s.Context(), a.Producer, first, s.limits))
			next := s.publish(a.Producer, "next")[0]
			held := letGo(s, a, first, next)
			held = append(held, s.publish(a.Producer, "later 1", "later 2")...)
			s.repeats(a.Producer, "key")
			// A reader that has but the first has missed something. A repeat behind that would seem to be its cursor.
			r := s.subscribe(a.Consumer, after(first.ID().String()))
			if r.Resume() != broker.ResumeGap {
				s.Errorf("%s: resume %q", how, r.Resume())
			}
			if got := r.takeAll(); !slices.Equal(got, held[:len(got)]) || len(got) < min(len(held), s.limits.InFlight) {
				s.Errorf("%s: took %q, want %q", how, lines(got), lines(held))
			}
		}
	},
	"a repeated key is dropped when the first was let go while the repeat was held": func(s *suite) {
		a, other := s.create(), s.create()
		s.no(s.Publish(s.Context(), other.Producer, s.big("large", 20<<10), s.limits))
		s.fill(a.Producer)
		results := make(chan error, 4)
		hold := func(l broker.Limits, m *broker.Message) {
			go func() { results <- s.Publish(s.Context(), a.Producer, m, l) }()
			s.waits(results)
		}
		hold(s.limits, s.keyed("first", "key"))
		hold(s.limits, s.message("next"))
		between := s.limits
		between.MaxMemory = 16 << 10 // which the other channel uses up
		hold(between, s.message("between"))
		hold(s.limits, s.keyed("repeat", "key"))
		r := s.subscribe(a.Consumer, acknowledged)
		for range s.limits.Buffer + 2 {
			ms, _ := r.Take(nil, 1)
			r.Settle(ms[0].ID())
		}
		s.no(s.returned(results))
		s.no(s.returned(results))
		s.waits(results)
		s.no(s.Delete(s.Context(), other.Consumer))
		s.no(s.returned(results))
		s.no(s.returned(results))
		s.holds(a.Consumer, 1, 0)
	},
	"a repeated key is dropped until so many keyed ones have been let go": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer, acknowledged)
		for i := range broker.KeyWindow {
			ms := []*broker.Message{s.keyed("keyed", fmt.Sprint(i)), s.message("another")}
			s.no(s.PublishBatch(s.Context(), []string{a.Producer}, ms, s.limits)[0].Err)
			r.takes(ms...)
			r.Settle(ms[1].ID())
		}
		s.repeats(a.Producer, fmt.Sprint(0))
		s.holds(a.Consumer, 0, 0)
	},
}

// lettingGo are the ways in which messages are let go: two, the first of a channel. What the channel holds then is returned.
var lettingGo = map[string]func(s *suite, a broker.Addresses, ms ...*broker.Message) (held []*broker.Message){
	"by a cursor": func(s *suite, a broker.Addresses, ms ...*broker.Message) []*broker.Message {
		s.subscribe(a.Consumer).takes(ms...)
		s.subscribe(a.Consumer, after(ms[1].ID().String()))
		return nil
	},
	"by an acknowledgement": func(s *suite, a broker.Addresses, ms ...*broker.Message) []*broker.Message {
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		r.Settle(ms[1].ID())
		return nil
	},
	"by a clean end": func(s *suite, a broker.Addresses, ms ...*broker.Message) []*broker.Message {
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		r.received()
		r.End(broker.EndClean)
		return nil
	},
	"by leaving the window": func(s *suite, a broker.Addresses, ms ...*broker.Message) []*broker.Message {
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		r.received()
		newer := s.publish(a.Producer, numbers(0, s.limits.InFlight)...)
		r.takes(newer...)
		r.received()
		r.End(broker.EndFault)
		return newer
	},
}

// repeats writes a key again, in every way, and checks that the channel takes none again.
func (s *suite) repeats(producer, key string) {
	s.Helper()
	before := s.state(producer)
	s.no(s.Publish(s.Context(), producer, s.keyed("repeat", key), s.limits))
	repeats := []*broker.Message{s.keyed("repeat", key), s.keyed("repeat", key)}
	if outcome := s.PublishBatch(s.Context(), []string{producer}, repeats, s.limits)[0]; outcome != (broker.Outcome{Accepted: 2}) {
		s.Errorf("outcome %+v of repeats", outcome)
	}
	in := s.Ingest(s.limits)
	s.no(in.Write(s.Context(), 0, []byte(producer), repeats[0]))
	if result := in.Finish(s.Context()); result.Written != 1 || result.FailuresTotal != 0 {
		s.Errorf("result %+v of a repeat", result)
	}
	s.holds(producer, before.Pending, before.InFlight)
}
