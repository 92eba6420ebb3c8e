package brokertest

import (
	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/broker"
)

var windowTests = group{
	"a message that was not received does not leave the window": func(s *suite) {
		a := s.create()
		ms := s.fill(a.Producer)
		r := s.subscribe(a.Consumer)
		r.takes(ms[:3]...)
		if _, full := r.Take(nil, allBytes); !full {
			s.Error("the window is not full")
		}
		s.holds(a.Consumer, 1, 3)
		r.Received(1)
		r.takes(ms[3])
		r.End(broker.EndFault)
		s.subscribe(a.Consumer).takes(ms[1:]...)
	},
	"received messages leave only when their place is needed": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2", "3")
		r.takes(ms...)
		r.received()
		s.holds(a.Consumer, 0, 3)
		ms = append(ms, s.publish(a.Producer, "4")...)
		r.takes(ms[3])
		s.holds(a.Consumer, 0, 3)
		r.End(broker.EndFault)
		s.subscribe(a.Consumer).takes(ms[1:]...)
	},
	"what an earlier connection received does not count for this one": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2", "3")
		r.takes(ms...)
		r.received()
		r.End(broker.EndFault)
		r = s.subscribe(a.Consumer)
		ms = append(ms, s.publish(a.Producer, "4")...)
		r.takes(ms[:3]...)
		s.holds(a.Consumer, 1, 3)
		r.received()
		r.takes(ms[3])
	},
	"a smaller window of a newer configuration counts": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2", "3")
		r.takes(ms...)
		r.End(broker.EndFault)
		s.limits.InFlight = 1
		r = s.subscribe(a.Consumer)
		ms = append(ms, s.publish(a.Producer, "4")...)
		r.takes(ms[:3]...)
		r.received()
		r.takes(ms[3])
		s.holds(a.Consumer, 0, 1)
	},
	"a full window holds producers": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		r.takes(s.publish(a.Producer, "1", "2", "3")...)
		ms := s.fill(a.Producer)
		r.takes()
		held := s.hold(s.Context(), a.Producer, "held")
		r.Received(1)
		r.takes(ms[0])
		s.no(s.returned(held))
	},
	"an acknowledging reader is sent no more than the window holds": func(s *suite) {
		a := s.create()
		ms := s.fill(a.Producer)
		r := s.subscribe(a.Consumer, acknowledged)
		r.takes(ms[:3]...)
		r.received()
		r.takes()
		if !r.Settle(ms[1].ID()) {
			s.Error("the event was not found")
		}
		r.takes(ms[3])
		s.holds(a.Consumer, 0, 2)
	},
	"the first acknowledgement makes a reader an acknowledging one": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2", "3")
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		r.received()
		r.Settle(ms[0].ID())
		more := s.publish(a.Producer, "4", "5")
		r.takes(more[0])
		r.received()
		r.takes()
		r.End(broker.EndClean)
		s.subscribe(a.Consumer, acknowledged).takes(append(ms[1:], more[0])...)
	},
	"the next reader that may acknowledge is an acknowledging one": func(s *suite) {
		may := func(o *broker.SubscribeOptions) { o.MayAcknowledge, o.TakeOver = true, true }
		a := s.create()
		r := s.subscribe(a.Consumer, may)
		ms := s.publish(a.Producer, numbers(0, s.limits.InFlight)...)
		r.takes(ms...)
		r.received()
		ms = append(ms, s.publish(a.Producer, "more")...)
		r.takes(ms[len(ms)-1]) // no reader has acknowledged yet
		r.Settle(ms[len(ms)-1].ID())
		s.holds(a.Consumer, 0, 0)

		r = s.subscribe(a.Consumer, may)
		ms = s.fill(a.Producer)
		r.takes(ms[:s.limits.InFlight]...)
		r.received()
		r.takes()
		r = s.subscribe(a.Consumer, takeOver) // does not acknowledge
		r.takes(ms[:s.limits.InFlight]...)
		r.received()
		r.takes(ms[s.limits.InFlight:]...)
	},
	"so is it after a reader that was one from the start": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer, acknowledged)
		ms := s.publish(a.Producer, "1")
		r.takes(ms...)
		r.Settle(ms[0].ID())
		s.holds(a.Consumer, 0, 0)
		r.End(broker.EndClean)
		r = s.subscribe(a.Consumer, func(o *broker.SubscribeOptions) { o.MayAcknowledge = true })
		ms = s.fill(a.Producer)
		r.takes(ms[:s.limits.InFlight]...)
		r.received()
		r.takes()
	},
	"an acknowledgement of an unknown event settles nothing": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2")
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		for _, id := range []broker.EventID{uuid.Nil, uuid.New(), s.message("other").ID()} {
			if r.Settle(id) {
				s.Errorf("the event %v was found", id)
			}
		}
		s.holds(a.Consumer, 0, 2)
		for range 2 {
			if !r.Settle(ms[0].ID()) {
				s.Error("an acknowledgement, or its repeat, was not found")
			}
		}
		s.holds(a.Consumer, 0, 1)
	},
	"an acknowledgement lets producers in": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer, acknowledged)
		ms := s.publish(a.Producer, "1", "2", "3")
		r.takes(ms...)
		more := s.fill(a.Producer)
		r.takes()
		held := s.hold(s.Context(), a.Producer, "held")
		r.Settle(ms[0].ID())
		r.takes(more[0])
		s.no(s.returned(held))
	},
	"a pending message cannot be acknowledged": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2")
		r := s.subscribe(a.Consumer)
		r.one()
		if r.Settle(ms[1].ID()) {
			s.Error("the event was found")
		}
		s.holds(a.Consumer, 1, 1)
	},
	"a message that will be sent again can be acknowledged before": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2", "3")
		s.subscribe(a.Consumer).takes(ms...)
		r := s.subscribe(a.Consumer, takeOver)
		if !r.Settle(ms[1].ID()) {
			s.Error("the event was not found")
		}
		r.takes(ms[2])
	},
	"an acknowledgement from another goroutine wakes the reader": func(s *suite) {
		a := s.create()
		ms := s.fill(a.Producer)
		r := s.subscribe(a.Consumer, acknowledged)
		r.takes(ms[:3]...)
		go r.Settle(ms[0].ID())
		r.takes(ms[3])
		s.holds(a.Consumer, 0, 3)
	},
}
