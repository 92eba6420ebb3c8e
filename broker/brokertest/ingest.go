package brokertest

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var ingestTests = group{
	"messages go to their channels in order": func(s *suite) {
		a, b := s.create(), s.create()
		in := s.Ingest(s.limits)
		ms := []*broker.Message{s.message("1"), s.message("2"), s.message("3")}
		for i, producer := range []string{a.Producer, b.Producer, a.Producer} {
			s.no(in.Write(s.Context(), i, []byte(producer), ms[i]))
		}
		s.finishes(in, 3)
		s.subscribe(a.Consumer).takes(ms[0], ms[2])
		s.subscribe(b.Consumer).takes(ms[1])
	},
	"the address may change after the write": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		in := s.Ingest(s.limits)
		address := []byte(a.Producer)
		s.no(in.Write(s.Context(), 7, address, s.message("held")))
		clear(address)
		s.delete(a.Producer)
		s.finishes(in, 0, broker.IngestFailure{Number: 7, Producer: a.Producer, Err: broker.ErrNotFound})
	},
	"a failure has only the beginning of what was given as an address": func(s *suite) {
		in := s.Ingest(s.limits)
		long := strings.Repeat("ä", 1<<19)
		s.no(in.Write(s.Context(), 0, []byte(long), s.message("1")))
		s.no(in.Write(s.Context(), 1, []byte("agent."+long), s.message("2")))
		in.Fail(2, strings.Repeat("x", broker.MaxFailureName+1), broker.ErrNotFound)
		s.finishes(in, 0,
			broker.IngestFailure{Number: 0, Producer: long[:broker.MaxFailureName-1], Err: broker.ErrNotFound},
			broker.IngestFailure{Number: 1, Producer: ("agent." + long)[:broker.MaxFailureName-1], Err: broker.ErrNotFound},
			broker.IngestFailure{Number: 2, Producer: strings.Repeat("x", broker.MaxFailureName), Err: broker.ErrNotFound})
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
		s.finishes(in, 2)
	},
	"a message held back for the hold time fails, and those behind it are skipped": func(s *suite) {
		s.limits.Hold = s.pick(s.limits.Hold, time.Second)
		a := s.create()
		s.fill(a.Producer)
		in := s.Ingest(s.limits)
		start := time.Now()
		s.no(in.Write(s.Context(), 0, []byte(a.Producer), s.message("1")))
		time.Sleep(s.pick(s.limits.Hold/2, s.limits.Hold/5))
		s.no(in.Write(s.Context(), 1, []byte(a.Producer), s.message("2")))
		s.no(in.Write(s.Context(), 2, []byte("agent.nothing"), s.message("3")))
		s.finishes(in, 0,
			broker.IngestFailure{Number: 0, Producer: a.Producer, Err: broker.ErrTimeout},
			broker.IngestFailure{Number: 1, Producer: a.Producer, Err: broker.ErrSkipped},
			broker.IngestFailure{Number: 2, Producer: "agent.nothing", Err: broker.ErrNotFound})
		s.took(start, s.limits.Hold)
		s.holds(a.Consumer, s.limits.Buffer, 0)
	},
	"without a hold time nothing is held back": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		s.limits.Hold = 0
		in := s.Ingest(s.limits)
		s.no(in.Write(s.Context(), 0, []byte(a.Producer), s.message("m")))
		s.finishes(in, 0, broker.IngestFailure{Number: 0, Producer: a.Producer, Err: broker.ErrTimeout})
	},
	"a message that gets no memory fails, and counts as refused": func(s *suite) {
		s.useUpMemory()
		s.shortHold()
		a := s.create()
		in := s.Ingest(s.limits)
		s.no(in.Write(s.Context(), 0, []byte(a.Producer), s.message("m")))
		result := s.finishes(in, 0, broker.IngestFailure{Number: 0, Producer: a.Producer, Err: broker.ErrMemoryLimit})
		if result.RefusedMemory != 1 {
			s.Errorf("%d messages count as refused for want of memory, want 1", result.RefusedMemory)
		}
	},
	"an ingestion that holds back too much takes no more": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		in := s.Ingest(s.limits)
		written := s.writesTooMuch(in, a.Producer)
		s.waits(written)
		r := s.subscribe(a.Consumer)
		r.next(s.limits.InFlight)
		s.no(s.returned(written))
		r.received()
		s.finishes(in, 3)
	},
	"an ingestion that waits to hold back more ends with its context": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		in := s.Ingest(s.limits)
		ctx, cancel := context.WithCancel(s.Context())
		ms := []*broker.Message{s.big("1", 600<<10), s.big("2", 600<<10), s.big("3", 600<<10)}
		written := start(func() (err error) {
			for i := 0; i < len(ms) && err == nil; i++ {
				err = in.Write(ctx, i, []byte(a.Producer), ms[i])
			}
			return err
		})
		s.waits(written)
		cancel()
		s.is(s.returned(written), context.Canceled)
		if result := in.Finish(ctx); result.Written != 0 || result.FailuresTotal == 0 {
			s.Errorf("%d messages are written, and %d have failed", result.Written, result.FailuresTotal)
		}
		s.holds(a.Consumer, s.limits.Buffer, 0)
	},
	"an ingestion that ends early leaves nothing held back": func(s *suite) {
		a := s.create()
		before := s.fill(a.Producer)
		in := s.Ingest(s.limits)
		s.no(in.Write(s.Context(), 0, []byte(a.Producer), s.message("held")))
		ctx, cancel := context.WithCancel(s.Context())
		cancel()
		if result := in.Finish(ctx); result.Written != 0 || result.FailuresTotal != 1 {
			s.Errorf("the result is %+v", result)
		}
		r := s.subscribe(a.Consumer)
		r.takes(before[:s.limits.InFlight]...)
		r.received()
		r.takes(before[s.limits.InFlight:]...)
	},
	"a result lists a limited number of failures": func(s *suite) {
		in := s.Ingest(s.limits)
		bad := errors.New("a message that could not be read")
		const failures = broker.MaxIngestFailures + 10
		for i := range failures {
			in.Fail(i, "agent.any", bad)
		}
		result := in.Finish(s.Context())
		if len(result.Failures) != broker.MaxIngestFailures || result.FailuresTotal != failures || result.RefusedMemory != 0 {
			s.Fatalf("%d of %d failures are listed", len(result.Failures), result.FailuresTotal)
		}
		if first := result.Failures[0]; first != (broker.IngestFailure{Number: 0, Producer: "agent.any", Err: bad}) {
			s.Errorf("the first failure is %+v", first)
		}
	},
}

// finishes ends an ingestion, and checks what became of its messages.
func (s *suite) finishes(in broker.Ingestion, written int, failures ...broker.IngestFailure) broker.IngestResult {
	s.Helper()
	result := in.Finish(s.Context())
	if result.Written != written || result.FailuresTotal != len(failures) || len(result.Failures) != len(failures) {
		s.Fatalf("the result is %+v, want %d written and %d failures", result, written, len(failures))
	}
	for i, want := range failures {
		got := result.Failures[i]
		if got.Number != want.Number || got.Producer != want.Producer || !errors.Is(got.Err, want.Err) {
			s.Errorf("failure %d is %+v, want %+v", i, got, want)
		}
	}
	return result
}

// writesTooMuch begins to write more messages to a channel than an ingestion may hold back, and returns the result.
func (s *suite) writesTooMuch(in broker.Ingestion, producer string) (written <-chan error) {
	s.Helper()
	ms := []*broker.Message{s.big("1", 600<<10), s.big("2", 600<<10), s.big("3", 600<<10)}
	return start(func() (err error) {
		for i, m := range ms {
			err = errors.Join(err, in.Write(s.Context(), i, []byte(producer), m))
		}
		return err
	})
}
