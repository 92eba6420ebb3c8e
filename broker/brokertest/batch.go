package brokertest

import (
	"context"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var batchTests = group{
	"every message goes to every channel, in order": func(s *suite) {
		a, b := s.create(), s.create()
		ms := []*broker.Message{s.message("1"), s.message("2")}
		for _, outcome := range s.PublishBatch(s.Context(), []string{a.Producer, b.Producer}, ms, s.limits) {
			if outcome != (broker.Outcome{Accepted: 2}) {
				s.Errorf("the outcome is %+v", outcome)
			}
		}
		s.subscribe(a.Consumer).takes(ms...)
		s.subscribe(b.Consumer).takes(ms...)
	},
	"outcomes are in the order of the channels": func(s *suite) {
		s.shortHold()
		a, full := s.create(), s.create()
		s.fill(full.Producer)
		outcomes := s.PublishBatch(s.Context(), []string{"agent.nothing", full.Producer, a.Producer},
			[]*broker.Message{s.message("m")}, s.limits)
		s.is(outcomes[0].Err, broker.ErrNotFound)
		s.is(outcomes[1].Err, broker.ErrTimeout)
		s.no(outcomes[2].Err)
	},
	"all channels share one hold time, and none waits for another": func(s *suite) {
		s.limits.Hold = s.pick(s.limits.Hold, time.Second)
		full, other, free := s.create(), s.create(), s.create()
		s.fill(full.Producer)
		s.fill(other.Producer)
		ms := []*broker.Message{s.message("1"), s.message("2"), s.message("3")}
		outcomes := make(chan []broker.Outcome, 1)
		start := time.Now()
		l := s.limits
		go func() {
			outcomes <- s.PublishBatch(s.Context(), []string{full.Producer, other.Producer, free.Producer}, ms, l)
		}()
		s.holds(free.Consumer, 3, 0)
		time.Sleep(s.pick(s.limits.Hold/2, 0))
		s.subscribe(other.Consumer).one()
		got, ok := receiveWithin(outcomes, s.patience())
		if !ok {
			s.Fatal("the call does not return")
		}
		s.took(start, s.limits.Hold)
		for i, accepted := range []int{0, 1, 3} {
			if got[i].Accepted != accepted {
				s.Errorf("channel %d has accepted %d messages, want %d", i, got[i].Accepted, accepted)
			}
		}
		s.is(got[0].Err, broker.ErrTimeout)
		s.is(got[1].Err, broker.ErrTimeout)
		s.no(got[2].Err)
	},
	"a call that ends early reports what the channel has accepted": func(s *suite) {
		a := s.create()
		ctx, cancel := context.WithTimeout(s.Context(), s.pick(time.Second, 300*time.Millisecond))
		defer cancel()
		var ms []*broker.Message
		for _, name := range numbers(0, s.limits.Buffer+1) {
			ms = append(ms, s.message(name))
		}
		outcome := s.PublishBatch(ctx, []string{a.Producer}, ms, s.limits)[0]
		s.is(outcome.Err, context.DeadlineExceeded)
		if outcome.Accepted != s.limits.Buffer {
			s.Errorf("the channel has accepted %d messages, want %d", outcome.Accepted, s.limits.Buffer)
		}
		s.holds(a.Consumer, s.limits.Buffer, 0)
	},
	"a duplicate counts as accepted": func(s *suite) {
		a := s.create()
		ms := []*broker.Message{s.keyed("first", "key"), s.keyed("duplicate", "key"), s.message("other")}
		outcome := s.PublishBatch(s.Context(), []string{a.Producer}, ms, s.limits)[0]
		if outcome != (broker.Outcome{Accepted: 3}) {
			s.Errorf("the outcome is %+v", outcome)
		}
		s.subscribe(a.Consumer).takes(ms[0], ms[2])
	},
	"a batch may have no channels or no messages": func(s *suite) {
		a := s.create()
		if got := s.PublishBatch(s.Context(), nil, []*broker.Message{s.message("m")}, s.limits); len(got) != 0 {
			s.Errorf("the outcomes are %v", got)
		}
		s.no(s.PublishBatch(s.Context(), []string{a.Producer}, nil, s.limits)[0].Err)
	},
}
