package brokertest

import (
	"errors"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var closeTests = group{
	"close ends the wait for room": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		held := s.hold(s.Context(), a.Producer, "held")
		s.closes()
		s.is(s.returned(held), broker.ErrClosed)
	},
	"close ends the wait for memory": func(s *suite) {
		s.useUpMemory()
		held := s.hold(s.Context(), s.create().Producer, "held")
		s.closes()
		s.is(s.returned(held), broker.ErrClosed)
	},
	"close ends a batch": func(s *suite) {
		full, free := s.create(), s.create()
		s.fill(full.Producer)
		outcomes := make(chan []broker.Outcome, 1)
		ms := []*broker.Message{s.message("m")}
		go func() {
			outcomes <- s.PublishBatch(s.Context(), []string{full.Producer, free.Producer}, ms, s.limits)
		}()
		s.holds(free.Consumer, 1, 0)
		s.pause()
		s.closes()
		got, ok := receive(s, outcomes)
		if !ok {
			s.Fatal("the call does not return")
		}
		s.is(got[0].Err, broker.ErrClosed)
		if got[0].Accepted != 0 || got[1] != (broker.Outcome{Accepted: 1}) {
			s.Errorf("the outcomes are %+v", got)
		}
	},
	"close ends an ingestion": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		in := s.Ingest(s.limits)
		written := s.writesTooMuch(in, a.Producer)
		s.waits(written)
		s.closes()
		_ = s.returned(written) // Write may report the error, or leave that to Finish
		result := in.Finish(s.Context())
		if result.Written != 0 || result.FailuresTotal < 2 || len(result.Failures) != result.FailuresTotal {
			s.Fatalf("the result is %+v", result)
		}
		for _, failure := range result.Failures {
			s.is(failure.Err, broker.ErrClosed)
		}
	},
	"close ends subscriptions": func(s *suite) {
		a, b := s.create(), s.create()
		ms := s.publish(a.Producer, "1", "2")
		reader, idle := s.subscribe(a.Consumer), s.subscribe(b.Consumer)
		reader.takes(ms...)
		s.closes()
		reader.over(broker.ErrClosed)
		idle.over(broker.ErrClosed)
		s.hasNoEffect(reader, ms[0])
		reader.End(broker.EndClean)
		idle.End(broker.EndFault)
		reader.over(broker.ErrClosed)
	},
	"all calls fail after close": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		before := s.Ingest(s.limits)
		id := s.list(broker.ListOptions{Limit: 1})[0].ID
		s.closes()
		for _, address := range []string{a.Producer, a.Consumer, id, "agent.unknown"} {
			s.allFail(address)
		}
		_, err := s.Create(s.Context(), "agent", s.limits)
		s.is(err, broker.ErrClosed)
		_, err = s.List(s.Context(), broker.ListOptions{Limit: 1})
		s.is(err, broker.ErrClosed)
		for _, in := range []broker.Ingestion{before, s.Ingest(s.limits)} {
			// Write may report the error, or leave that to Finish.
			if err := in.Write(s.Context(), 0, []byte(a.Producer), s.message("m")); err == nil {
				s.finishes(in, 0, broker.IngestFailure{Number: 0, Producer: a.Producer, Err: broker.ErrClosed})
			} else {
				s.is(err, broker.ErrClosed)
				in.Finish(s.Context())
			}
		}
	},
	"closing again has no effect": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		s.closes()
		s.closes()
		r.over(broker.ErrClosed)
		s.allFail(a.Producer)
	},
	"several goroutines may close at once, during calls": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer, acknowledged)
		var all sync.WaitGroup
		for i := range 4 {
			m := s.keyed("m", numbers(i, i+1)[0])
			all.Go(func() {
				for err := error(nil); err == nil; {
					if err = s.Publish(s.Context(), a.Producer, m, s.limits); err != nil && !errors.Is(err, broker.ErrClosed) {
						s.Errorf("publish fails with %v", err)
					}
				}
			})
		}
		if _, ok := receiveWithin(r.Ready(), s.patience()); !ok { // receive would wait until no goroutine does anything
			s.Error("nothing is written")
		}
		for range 4 {
			all.Go(s.Close)
		}
		all.Wait()
		r.over(broker.ErrClosed)
	},
}

// closes calls Close, which must not wait for anything.
func (s *suite) closes() {
	s.Helper()
	start := time.Now()
	s.Close()
	s.took(start, 0)
}

// allFail makes every call that takes an address, or an id, of a Broker that is closed.
func (s *suite) allFail(address string) {
	s.Helper()
	s.is(s.Publish(s.Context(), address, s.message("m"), s.limits), broker.ErrClosed)
	if s.PublishNow(address, s.message("m"), s.limits) {
		s.Error("PublishNow has taken a message")
	}
	s.is(s.PublishBatch(s.Context(), []string{address}, []*broker.Message{s.message("m")}, s.limits)[0].Err, broker.ErrClosed)
	_, err := s.trySubscribe(address)
	s.is(err, broker.ErrClosed)
	_, err = s.trySubscribe(address, takeOver)
	s.is(err, broker.ErrClosed)
	_, err = s.State(s.Context(), address)
	s.is(err, broker.ErrClosed)
	s.is(s.Delete(s.Context(), address), broker.ErrClosed)
	_, err = s.Find(s.Context(), address)
	s.is(err, broker.ErrClosed)
	_, err = s.Peek(s.Context(), address, 1)
	s.is(err, broker.ErrClosed)
}
