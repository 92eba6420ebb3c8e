package brokertest

import (
	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/broker"
)

var cursorTests = group{
	"a cursor settles everything up to it": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2", "3")
		s.subscribe(a.Consumer).takes(ms...)
		r := s.subscribe(a.Consumer, after(ms[1].ID().String()))
		r.resumes(broker.ResumeComplete)
		r.takes(ms[2])
		s.holds(a.Consumer, 0, 1)
	},
	"the event last settled stays a valid cursor": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2")
		s.subscribe(a.Consumer).takes(ms...)
		for range 3 {
			r := s.subscribe(a.Consumer, after(ms[0].ID().String()))
			r.resumes(broker.ResumeComplete)
			r.takes(ms[1])
		}
	},
	"an unknown cursor settles nothing and means a gap": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2", "3")
		s.subscribe(a.Consumer).takes(ms...)
		s.subscribe(a.Consumer, after(ms[1].ID().String()))
		for _, cursor := range []string{
			ms[0].ID().String(), "garbage", uuid.Nil.String(), uuid.NewString(),
			"{" + ms[2].ID().String() + "}", ms[2].ID().URN(),
		} {
			r := s.subscribe(a.Consumer, after(cursor))
			r.resumes(broker.ResumeGap)
			r.takes(ms[2])
		}
	},
	"a read that is refused settles nothing": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2")
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		_, err := s.Subscribe(s.Context(), a.Consumer,
			broker.SubscribeOptions{Limits: s.limits, After: ms[1].ID().String(), Follow: true})
		s.is(err, broker.ErrBusy)
		s.holds(a.Consumer, 0, 2)
		r.received()
		r.End(broker.EndClean) // it settles messages, so the channel does not follow cursors
		s.holds(a.Consumer, 0, 0)
	},
	"a pending message is not a valid cursor": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2")
		r := s.subscribe(a.Consumer)
		r.one()
		r.End(broker.EndFault)
		r = s.subscribe(a.Consumer, after(ms[1].ID().String())) // no client can have it
		r.resumes(broker.ResumeGap)
		r.takes(ms...)
	},
	"a cursor makes room for newer messages and for producers": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2", "3")
		s.subscribe(a.Consumer, acknowledged).takes(ms...)
		ms = append(ms, s.fill(a.Producer)...)
		held := s.hold(s.Context(), a.Producer, "held")
		r := s.subscribe(a.Consumer, after(ms[2].ID().String()), acknowledged)
		s.waits(held)
		r.takes(ms[3:6]...)
		s.no(s.returned(held))
	},
	"an empty cursor settles nothing": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1")
		s.subscribe(a.Consumer).takes(ms...)
		r := s.subscribe(a.Consumer, after(""))
		r.resumes(broker.ResumeNone)
		r.takes(ms...)
	},
	"a read without a cursor does not resume": func(s *suite) {
		s.subscribe(s.create().Consumer).resumes(broker.ResumeNone)
	},
	"a cursor that has left the window means a gap": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, numbers(0, 3)...)
		r.takes(ms...)
		r.received()
		ms = append(ms, s.publish(a.Producer, numbers(3, 6)...)...)
		r.takes(ms[3:]...)
		s.holds(a.Consumer, 0, 3)
		r = s.subscribe(a.Consumer, after(ms[0].ID().String()))
		r.resumes(broker.ResumeGap)
		r.takes(ms[3:]...)
	},
}

func (r *reader) resumes(want broker.Resume) {
	r.s.Helper()
	if got := r.Resume(); got != want {
		r.s.Errorf("the read resumes %q, want %q", got, want)
	}
}
