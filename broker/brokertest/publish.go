package brokertest

import (
	"context"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var publishTests = group{
	"a channel holds messages in the order of the calls": func(s *suite) {
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
		s.holdsProducers(a.Producer, 2)
		r := s.subscribe(a.Consumer)
		r.one()
		r.received()
		s.no(s.returned(first))
		s.waits(second)
		s.holdsProducers(a.Consumer, 1)
		r.one()
		r.received()
		s.no(s.returned(second))
		s.holdsProducers(a.Consumer, 0)
		s.holds(a.Consumer, s.limits.Buffer, 2)
	},
	"a producer waits for the hold time, and leaves nothing behind": func(s *suite) {
		s.shortHold()
		a := s.create()
		ms := s.fill(a.Producer)
		start := time.Now()
		held := s.begin(s.Context(), a.Producer, s.message("held"))
		s.returnsAfterHold(held, start, broker.ErrTimeout)
		r := s.subscribe(a.Consumer)
		r.takes(ms[:s.limits.InFlight]...)
		r.received()
		r.takes(ms[s.limits.InFlight:]...)
	},
	"without a hold time a full channel refuses at once": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		s.limits.Hold = 0
		start := time.Now()
		s.is(s.Publish(s.Context(), a.Producer, s.message("m"), s.limits), broker.ErrTimeout)
		s.took(start, 0)
	},
	"a producer that stops waiting leaves nothing behind": func(s *suite) {
		a := s.create()
		ms := s.fill(a.Producer)
		ctx, cancel := context.WithCancel(s.Context())
		gone := s.hold(ctx, a.Producer, "gone")
		m := s.message("stays")
		stays := s.holdMessage(s.Context(), a.Producer, m)
		cancel()
		s.is(s.returned(gone), context.Canceled)
		r := s.subscribe(a.Consumer)
		r.one()
		s.no(s.returned(stays))
		r.received()
		r.next(len(ms) - 1)
		r.received()
		r.takes(m)
	},
	"only pending messages hold producers": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		r := s.subscribe(a.Consumer)
		r.next(s.limits.InFlight)
		s.holds(a.Consumer, s.limits.Buffer-s.limits.InFlight, s.limits.InFlight)
		s.publish(a.Producer, numbers(0, s.limits.InFlight)...)
		s.hold(s.Context(), a.Producer, "held")
	},
	"the buffer is that of the call": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		s.limits.Buffer++ // of a newer configuration
		s.publish(a.Producer, "one more")
		s.hold(s.Context(), a.Producer, "held")
	},
	"the next producer gets in when the first, who has no room, stops waiting": func(s *suite) {
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

// A Broker may leave all messages to Publish. So these tests take either answer, except where there is only one.
var publishNowTests = group{
	"a message is in order with the others": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1")
		m := s.message("2")
		if s.PublishNow(a.Producer, m, s.limits) {
			ms = append(ms, m)
		}
		ms = append(ms, s.publish(a.Producer, "3")...)
		s.subscribe(a.Consumer).takes(ms...)
	},
	"a full channel takes nothing": func(s *suite) {
		a := s.create()
		ms := s.fill(a.Producer)
		if s.PublishNow(a.Producer, s.message("m"), s.limits) {
			s.Error("a full channel has taken a message")
		}
		s.holds(a.Consumer, len(ms), 0)
	},
	"a message does not overtake a held one": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		held := s.hold(s.Context(), a.Producer, "held")
		s.limits.Buffer++
		if s.PublishNow(a.Producer, s.message("m"), s.limits) {
			s.Error("the message has overtaken the one that is held")
		}
		s.waits(held)
	},
	"a duplicate is dropped": func(s *suite) {
		a := s.create()
		first := s.keyed("first", "key")
		s.send(a.Producer, first)
		s.PublishNow(a.Producer, s.keyed("duplicate", "key"), s.limits)
		s.subscribe(a.Consumer).takes(first)
		s.holds(a.Consumer, 0, 1)
	},
	"a channel that does not exist takes nothing": func(s *suite) {
		a := s.create()
		for _, address := range []string{"", "agent.nothing", a.Consumer} {
			if s.PublishNow(address, s.message("m"), s.limits) {
				s.Errorf("%q has taken a message", address)
			}
		}
		s.holds(a.Consumer, 0, 0)
	},
}

// A Broker may leave these messages to Publish, too.
var publishThenTests = group{
	"a message is in order with the others, and its outcome comes once": func(s *suite) {
		b := implementing[broker.Continuer](s)
		a := s.create()
		ms := s.publish(a.Producer, "1")
		m, told := s.message("2"), make(outcomes, 2)
		if b.PublishThen(a.Producer, m, s.limits, told) {
			s.no(s.returned((chan error)(told)))
			ms = append(ms, m)
		}
		ms = append(ms, s.publish(a.Producer, "3")...)
		s.subscribe(a.Consumer).takes(ms...)
		if len(told) > 0 {
			s.Error("the outcome came twice")
		}
	},
	"what cannot be taken is left to the caller": func(s *suite) {
		b := implementing[broker.Continuer](s)
		a := s.create()
		ms, told := s.fill(a.Producer), make(outcomes, 2)
		for _, address := range []string{"", "agent.nothing", a.Consumer, a.Producer} {
			if b.PublishThen(address, s.message("m"), s.limits, told) {
				s.Errorf("%q has taken a message", address)
			}
		}
		if len(told) > 0 {
			s.Error("there is an outcome")
		}
		s.holds(a.Consumer, len(ms), 0)
	},
	"a duplicate is dropped": func(s *suite) {
		b := implementing[broker.Continuer](s)
		a := s.create()
		first, told := s.keyed("first", "key"), make(outcomes, 2)
		s.send(a.Producer, first)
		if b.PublishThen(a.Producer, s.keyed("duplicate", "key"), s.limits, told) {
			s.no(s.returned((chan error)(told)))
		}
		s.subscribe(a.Consumer).takes(first)
		s.holds(a.Consumer, 0, 1)
	},
}

// outcomes is a [broker.Continuation] that sends what it gets.
type outcomes chan error

func (o outcomes) Published(err error) { o <- err }
