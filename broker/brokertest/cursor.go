package brokertest

import (
	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/broker"
)

var cursorTests = map[string]func(*suite){
	"a cursor settles everything up to it": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2", "3")
		s.subscribe(a.Consumer).takes(ms...)
		r := s.subscribe(a.Consumer, after(ms[1].ID().String()))
		if r.Resume() != broker.ResumeComplete {
			s.Errorf("resume %q", r.Resume())
		}
		r.takes(ms[2])
		s.holds(a.Consumer, 0, 1)
	},
	"the event last settled stays a good cursor": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2")
		s.subscribe(a.Consumer).takes(ms...)
		for range 3 {
			r := s.subscribe(a.Consumer, after(ms[0].ID().String()))
			if r.Resume() != broker.ResumeComplete {
				s.Errorf("resume %q", r.Resume())
			}
			r.takes(ms[1])
		}
	},
	"a cursor that is not found settles nothing and tells of a gap": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2", "3")
		s.subscribe(a.Consumer).takes(ms...)
		s.subscribe(a.Consumer, after(ms[1].ID().String()))
		for _, cursor := range []string{
			ms[0].ID().String(), "garbage", uuid.Nil.String(), uuid.NewString(), "{" + ms[2].ID().String() + "}", ms[2].ID().URN(),
		} {
			r := s.subscribe(a.Consumer, after(cursor))
			if r.Resume() != broker.ResumeGap {
				s.Errorf("resume %q from %q", r.Resume(), cursor)
			}
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
		r.End(broker.EndClean) // nor does the channel follow cursors now
		s.holds(a.Consumer, 0, 0)
	},
	"a cursor shows what an earlier reader was sent, and nothing newer": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2")
		r := s.subscribe(a.Consumer)
		r.Take(nil, 1)
		r.End(broker.EndFault)
		r = s.subscribe(a.Consumer, after(ms[1].ID().String())) // is pending: no client can have it
		if r.Resume() != broker.ResumeGap {
			s.Errorf("resume %q", r.Resume())
		}
		r.takes(ms...)
	},
	"a cursor gives place to what is newer, and to producers": func(s *suite) {
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
		if r.Resume() != broker.ResumeNone {
			s.Errorf("resume %q", r.Resume())
		}
		r.takes(ms...)
	},
	"a read without a cursor tells nothing of resuming": func(s *suite) {
		if got := s.subscribe(s.create().Consumer).Resume(); got != broker.ResumeNone {
			s.Errorf("resume %q", got)
		}
	},
	"what left the window is a gap": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, numbers(0, 3)...)
		r.takeAll()
		r.received()
		ms = append(ms, s.publish(a.Producer, numbers(3, 6)...)...)
		r.takeAll()
		r = s.subscribe(a.Consumer, after(ms[0].ID().String()))
		if r.Resume() != broker.ResumeGap {
			s.Errorf("resume %q", r.Resume())
		}
		r.takes(ms[3:]...)
	},
}
