package brokertest

import (
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// drainPause is how long a Broker may take to notice by itself that a channel is settled.
const drainPause = time.Second

var drainTests = group{
	"the state is zero without a drain": func(s *suite) {
		d := s.drainer()
		s.create()
		d.isNot()
		d.Undrain()
		d.isNot()
	},
	"channels that hold nothing end over the given time": func(s *suite) {
		d := s.drainer()
		const channels = 100
		for range channels {
			s.create()
		}
		over := s.pick(10*time.Second, time.Second)
		start := time.Now()
		state := d.Drain(over)
		if !state.Active || state.Done || state.Channels != channels || state.Over != over {
			s.Errorf("the state is %+v at the start", state)
		}
		s.isTime("the start of the drain", state.Started, start, time.Now())
		_, err := s.Create(s.Context(), "agent", s.limits)
		s.is(err, broker.ErrDraining)
		for !d.DrainState().Done {
			// A channel has its turn after its share of the time. In real time, this test may come late.
			passed := time.Since(start)
			remaining := d.DrainState().Remaining
			least, most := channels-1-int(channels*time.Since(start)/over), channels-int(channels*(passed-drainPause)/over)
			if remaining < least || remaining > most && !s.realTime {
				s.Errorf("%d of %d channels remain after %v of %v", remaining, channels, passed, over)
			}
			if time.Sleep(over / 20); time.Since(start) > over+patience {
				s.Fatalf("the state is %+v after %v", d.DrainState(), time.Since(start))
			}
		}
		d.done(0)
		if left := s.list(broker.ListOptions{Limit: 1}); len(left) > 0 {
			s.Errorf("%v is left", left)
		}
		d.Undrain()
		d.isNot()
		s.create()
	},
	"a drain without channels is done": func(s *suite) {
		d := s.drainer()
		d.Drain(time.Hour)
		d.done(0)
	},
	"a channel takes no more messages": func(s *suite) {
		d := s.drainer()
		s.limits.InFlight = 1000
		a := s.create()
		ms := s.publish(a.Producer, "1", "2")
		d.Drain(0)
		ms = append(ms, s.refuses(a.Producer)...)
		s.subscribe(a.Consumer).takes(ms...)
		s.holds(a.Consumer, 0, len(ms))
	},
	"a channel stays until its messages are settled": func(s *suite) {
		d := s.drainer()
		s.limits.InFlight = 1000
		a := s.create()
		ms := s.publish(a.Producer, "1", "2")
		r := s.subscribe(a.Consumer)
		if r.one(); r.Drained() {
			s.Error("the channel is drained, and nobody drains it")
		}
		d.Drain(0)
		ms = append(ms, s.refuses(a.Producer)...)
		if r.Drained() {
			s.Error("the channel is drained before all messages are taken")
		}
		r.takes(ms[1:]...)
		if !r.Drained() {
			s.Error("the channel is not drained after all messages are taken")
		}
		r.End(broker.EndFault)
		time.Sleep(s.pick(2*drainPause, 0))
		s.holds(a.Consumer, 0, len(ms))
		if state := d.DrainState(); state.Done || state.Remaining != 1 {
			s.Errorf("the state is %+v, and there is a channel with messages", state)
		}
		again := s.subscribe(a.Consumer, acknowledged)
		again.takes(ms...)
		again.Settle(ms[len(ms)-1].ID())
		d.done(0)
		again.over(broker.ErrNotFound)
		s.isGone(a)
	},
	"a reader that waits learns that the channel is drained": func(s *suite) {
		d := s.drainer()
		a := s.create()
		ms := s.publish(a.Producer, "1")
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		d.Drain(0)
		if !r.ready(true) || !r.Drained() {
			s.Errorf("the reader does not learn it; drained is %v", r.Drained())
		}
		r.received()
		r.End(broker.EndClean)
		d.done(0)
	},
	"a drain ends the waits of producers": func(s *suite) {
		d := s.drainer()
		a := s.create()
		s.fill(a.Producer)
		held := s.hold(s.Context(), a.Producer, "held")
		in := s.Ingest(s.limits)
		s.no(in.Write(s.Context(), 0, []byte(a.Producer), s.message("held back")))
		d.Drain(0)
		s.is(s.returned(held), broker.ErrNotFound)
		s.finishes(in, 0, broker.IngestFailure{Number: 0, Producer: a.Producer, Err: broker.ErrNotFound})
		s.holds(a.Consumer, s.limits.Buffer, 0)
	},
	"of a batch, a channel that is drained has what it had room for": func(s *suite) {
		d := s.drainer()
		a := s.create()
		var ms []*broker.Message
		for _, name := range numbers(0, s.limits.Buffer+2) {
			ms = append(ms, s.message(name))
		}
		outcome, l := broker.Outcome{}, s.limits
		written := start(func() error {
			outcome = s.PublishBatch(s.Context(), []string{a.Producer}, ms, l)[0]
			return outcome.Err
		})
		s.waits(written)
		d.Drain(0)
		s.is(s.returned(written), broker.ErrNotFound)
		if outcome.Accepted != s.limits.Buffer {
			s.Errorf("%d messages are accepted", outcome.Accepted)
		}
		d.Undrain()
		s.limits.InFlight = 1000
		s.subscribe(a.Consumer).takes(ms[:s.limits.Buffer]...)
	},
	"messages that expire or are deleted count as undelivered": func(s *suite) {
		d := s.drainer()
		before, expired, deleted := s.create(), s.create(), s.create()
		for i, a := range []broker.Addresses{before, expired, deleted} {
			s.publish(a.Producer, numbers(0, i+1)...)
		}
		s.delete(before.Consumer) // does not count
		d.Drain(0)
		s.delete(deleted.Consumer)
		if expires := s.expire(expired.Consumer); !s.realTime {
			time.Sleep(time.Until(expires) + sweep)
		}
		d.done(2 + 3)
	},
	"undrain opens channels again": func(s *suite) {
		d := s.drainer()
		a := s.create()
		s.limits.InFlight = 1000
		ms := s.publish(a.Producer, "1")
		d.Drain(0)
		ms = append(ms, s.refuses(a.Producer)...)
		d.Undrain()
		d.isNot()
		ms = append(ms, s.publish(a.Producer, "2")...)
		s.create()
		r := s.subscribe(a.Consumer)
		if r.takes(ms...); r.Drained() {
			s.Error("the channel is drained")
		}
		r.received()
		r.End(broker.EndClean)
		time.Sleep(s.pick(2*drainPause, s.quiet))
		s.state(a.Consumer)
	},
	"a drain can begin again with another time": func(s *suite) {
		d := s.drainer()
		s.create()
		s.create()
		if state := d.Drain(time.Hour); state.Channels != 2 || state.Over != time.Hour {
			s.Errorf("the state is %+v", state)
		}
		if state := d.Drain(0); !state.Active || state.Channels == 0 || state.Over != 0 {
			s.Errorf("the state is %+v", state)
		}
		d.done(0)
	},
	"close ends a drain": func(s *suite) {
		d := s.drainer()
		s.create()
		d.Drain(time.Hour)
		s.closes() // and a bubble notices goroutines that are left behind
	},
}

// A drainer is a Broker that can drain, under test.
type drainer struct {
	broker.Drainer

	s *suite
}

func (s *suite) drainer() drainer {
	s.Helper()
	if s.shared {
		s.Skip("the Broker shares its channels with others, so they stay: see the tests of the shared drain")
	}
	return drainer{implementing[broker.Drainer](s), s}
}

func (d drainer) isNot() {
	d.s.Helper()
	if state := d.DrainState(); state != (broker.DrainState{}) {
		d.s.Errorf("the state is %+v, and there is no drain", state)
	}
}

// done waits until a drain is done, and checks how many messages were lost.
func (d drainer) done(undelivered int) {
	d.s.Helper()
	if !d.s.within(drainPause, func() bool { return d.DrainState().Done }) {
		d.s.Fatalf("the state is %+v, want a drain that is done", d.DrainState())
	}
	if state := d.DrainState(); !state.Active || state.Remaining != 0 || state.Undelivered != undelivered {
		d.s.Errorf("the state is %+v, want %d undelivered messages", state, undelivered)
	}
}

// refuses checks that a channel takes no messages, in any way. In real time it waits until the channel has its turn in the
// drain, and returns the messages that the channel has taken before.
func (s *suite) refuses(producer string) (taken []*broker.Message) {
	s.Helper()
	l := s.limits
	l.Buffer = 1000
	s.pause()
	if !s.eventually(func() bool {
		m := s.message("late")
		err := s.Publish(s.Context(), producer, m, l)
		if err == nil {
			taken = append(taken, m)
			return false
		}
		s.is(err, broker.ErrNotFound)
		return true
	}) {
		s.Fatal("a channel that is being drained takes a message")
	}
	if s.PublishNow(producer, s.message("late"), l) {
		s.Error("PublishNow has written to a channel that is being drained")
	}
	s.is(s.PublishBatch(s.Context(), []string{producer}, []*broker.Message{s.message("late")}, l)[0].Err, broker.ErrNotFound)
	in := s.Ingest(l)
	s.no(in.Write(s.Context(), 0, []byte(producer), s.message("late")))
	s.finishes(in, 0, broker.IngestFailure{Number: 0, Producer: producer, Err: broker.ErrNotFound})
	return taken
}
