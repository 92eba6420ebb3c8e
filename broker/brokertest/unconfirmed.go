package brokertest

import "github.com/caddy-megaphone/megaphone/broker"

var unconfirmedTests = group{
	"an unconfirmed end settles nothing at once": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2")
		r.takes(ms...)
		r.received()
		r.End(broker.EndUnconfirmed)
		s.holds(a.Consumer, 0, 2)
		s.subscribe(a.Consumer, follow).takes(ms...) // a reader with a cursor says itself what it has
	},
	"the next reader without a cursor has seen an unconfirmed end": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2")
		r.takes(ms...)
		r.Received(1)
		r.End(broker.EndUnconfirmed)
		s.subscribe(a.Consumer).takes(ms[1])
		s.holds(a.Consumer, 0, 1)
	},
	"a reader that is refused has seen nothing": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1")
		r.takes(ms...)
		r.received()
		r.End(broker.EndUnconfirmed)
		next := s.subscribe(a.Consumer, redeliver)
		_, err := s.trySubscribe(a.Consumer)
		s.is(err, broker.ErrBusy)
		next.takes(ms...)
	},
	"two unconfirmed ends settle what both readers have received": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer, redeliver)
		ms := s.publish(a.Producer, "1", "2")
		r.takes(ms...)
		r.received()
		r.End(broker.EndUnconfirmed)

		r = s.subscribe(a.Consumer, redeliver)
		r.takes(ms...)
		r.received()
		r.End(broker.EndFault) // does not count
		s.holds(a.Consumer, 0, 2)

		r = s.subscribe(a.Consumer, redeliver)
		ms = append(ms, s.publish(a.Producer, "3")...)
		r.takes(ms...)
		r.Received(1)
		r.End(broker.EndUnconfirmed)
		s.subscribe(a.Consumer, redeliver).takes(ms[1:]...)
	},
	"an unconfirmed end settles nothing in a channel that follows cursors": func(s *suite) {
		a := s.create()
		s.subscribe(a.Consumer, follow).End(broker.EndClean)
		ms := s.publish(a.Producer, "1", "2")
		for range 3 {
			r := s.subscribe(a.Consumer)
			r.takes(ms...)
			r.received()
			r.End(broker.EndUnconfirmed)
		}
		s.holds(a.Consumer, 0, 2)
	},
	"a reader that may have to be sent its messages again gets no more than the window holds": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer, redeliver)
		ms := s.publish(a.Producer, numbers(0, s.limits.InFlight)...)
		r.takes(ms...)
		r.received()
		newer := s.publish(a.Producer, "newer")
		r.takes() // nothing: the window is full
		r.End(broker.EndUnconfirmed)

		r = s.subscribe(a.Consumer, redeliver)
		r.takes(ms...)
		r.received()
		r.End(broker.EndUnconfirmed)
		s.subscribe(a.Consumer, redeliver).takes(newer...)
	},
	"redelivery does not hold up a channel that follows cursors": func(s *suite) {
		a := s.create()
		s.subscribe(a.Consumer, follow).End(broker.EndClean)
		r := s.subscribe(a.Consumer, redeliver)
		r.takes(s.publish(a.Producer, numbers(0, s.limits.InFlight)...)...)
		r.received()
		r.takes(s.publish(a.Producer, "newer")...)
	},
}
