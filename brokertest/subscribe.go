package brokertest

import (
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone"
)

var subscribeTests = map[string]func(*suite){
	"no more readers than allowed, but who takes over is let in": func(s *suite) {
		s.limits.MaxReaders = 1
		a, b := s.create(), s.create()
		o := megaphone.SubscribeOptions{Limits: s.limits}
		sub, err := s.Subscribe(s.Context(), a.Consumer, o)
		s.no(err)
		for range 3 {
			_, err = s.Subscribe(s.Context(), b.Consumer, o)
			s.is(err, megaphone.ErrReaderLimit)
		}
		o.TakeOver = true
		next, err := s.Subscribe(s.Context(), a.Consumer, o)
		s.no(err)
		sub.End(megaphone.EndClean) // is not the reader any more
		_, err = s.Subscribe(s.Context(), b.Consumer, o)
		s.is(err, megaphone.ErrReaderLimit)
		next.End(megaphone.EndFault)
		last, err := s.Subscribe(s.Context(), b.Consumer, o)
		s.no(err)
		s.no(s.Delete(s.Context(), b.Consumer)) // ends a read too
		_, err = s.Subscribe(s.Context(), a.Consumer, o)
		s.no(err)
		last.End(megaphone.EndClean)
	},
	"a channel has one reader": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		_, err := s.Subscribe(s.Context(), a.Consumer, megaphone.SubscribeOptions{Limits: s.limits})
		s.is(err, megaphone.ErrBusy)
		r.End(megaphone.EndClean)
		s.subscribe(a.Consumer)
	},
	"a reader can take over": func(s *suite) {
		a := s.create()
		old := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2")
		old.takes(ms...)
		r := s.subscribe(a.Consumer, takeOver)
		old.over(megaphone.ErrTakenOver)
		r.takes(ms...)
	},
	"a reader that is over has no effect": func(s *suite) {
		a := s.create()
		old := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2")
		old.takes(ms...)
		r := s.subscribe(a.Consumer, takeOver)
		if got, full := old.Take(nil, 1<<20); len(got) > 0 || full {
			s.Errorf("took %v", lines(got))
		}
		old.received()
		if old.Settle(ms[1].ID()) {
			s.Error("it settled")
		}
		old.End(megaphone.EndClean)
		s.holds(a.Consumer, 0, 2)
		r.takes(ms...)
		if _, err := s.Subscribe(s.Context(), a.Consumer, megaphone.SubscribeOptions{Limits: s.limits}); err == nil {
			s.Error("its end has given the channel free")
		}
	},
	"a reader that has ended has no effect": func(s *suite) {
		a := s.create()
		old := s.subscribe(a.Consumer)
		s.publish(a.Producer, "1")
		old.takeAll()
		old.End(megaphone.EndFault)
		r := s.subscribe(a.Consumer)
		old.End(megaphone.EndClean)
		s.holds(a.Consumer, 0, 1)
		if !s.state(a.Consumer).Connected {
			s.Error("its second end has given the channel free")
		}
		r.takeAll()
	},
	"after a fault everything in flight comes again, before what is newer": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2")
		r.takes(ms...)
		r.received()
		r.End(megaphone.EndFault)
		ms = append(ms, s.publish(a.Producer, "3")...)
		s.subscribe(a.Consumer).takes(ms...)
	},
	"a clean end settles what was received": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		s.publish(a.Producer, "1", "2")
		r.takeAll()
		r.received()
		r.End(megaphone.EndClean)
		s.holds(a.Consumer, 0, 0)
	},
	"a clean end does not settle what was not received": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2")
		r.takes(ms...)
		r.Received(1)
		r.End(megaphone.EndClean)
		s.subscribe(a.Consumer).takes(ms[1])
	},
	"a clean end settles nothing in a channel that follows cursors": func(s *suite) {
		a := s.create()
		s.subscribe(a.Consumer, follow).End(megaphone.EndClean)
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2")
		r.takes(ms...)
		r.received()
		r.End(megaphone.EndClean)
		s.subscribe(a.Consumer).takes(ms...)
	},
	"a reader is told of a message": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		synctest.Wait()
		select {
		case <-r.Ready():
			s.Fatal("ready without a message")
		default:
		}
		s.publish(a.Producer, "1")
		<-r.Ready()
	},
	"no more bytes are taken than asked for, but for the last message": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2", "3")
		r := s.subscribe(a.Consumer)
		first, full := r.Take(nil, len(ms[0].Line())+1)
		if len(first) != 2 || full {
			s.Errorf("took %d, full %v", len(first), full)
		}
		r.takes(ms[2])
	},
	"the end of a read is when its time to live begins": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		s.limits.TTL *= 2 // of another configuration, which does not count for this read
		time.Sleep(time.Hour)
		r.End(megaphone.EndClean)
		if state := s.state(a.Consumer); !state.Expires.Equal(time.Now().Add(s.limits.TTL / 2)) {
			s.Errorf("expires %v", state.Expires)
		}
	},
}

var windowTests = map[string]func(*suite){
	"nothing leaves the window that was not received": func(s *suite) {
		a := s.create()
		ms := s.fill(a.Producer)
		r := s.subscribe(a.Consumer)
		r.takes(ms[:3]...)
		if _, full := r.Take(nil, 1<<20); !full {
			s.Error("the window is not full")
		}
		s.holds(a.Consumer, 1, 3)
		r.Received(1)
		r.takes(ms[3])
		r.End(megaphone.EndFault)
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
		r.End(megaphone.EndFault)
		s.subscribe(a.Consumer).takes(ms[1:]...)
	},
	"what an earlier connection received does not count for this one": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2", "3")
		r.takes(ms...)
		r.received()
		r.End(megaphone.EndFault)
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
		r.End(megaphone.EndFault)
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
		s.publish(a.Producer, "1", "2", "3")
		r.takeAll()
		s.fill(a.Producer)
		r.takes()
		held := s.hold(s.Context(), a.Producer, "held")
		r.Received(1)
		r.takeAll()
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
			s.Error("the event is not found")
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
		r.End(megaphone.EndClean)
		s.subscribe(a.Consumer, acknowledged).takes(append(ms[1:], more[0])...)
	},
	"an acknowledgement of what is unknown settles nothing": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2")
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		for _, id := range []uuid.UUID{uuid.Nil, uuid.New(), s.message("other").ID()} {
			if r.Settle(id) {
				s.Errorf("event %v is found", id)
			}
		}
		s.holds(a.Consumer, 0, 2)
		for range 2 {
			if !r.Settle(ms[0].ID()) {
				s.Error("an acknowledgement, or its repeat, is not found")
			}
		}
		s.holds(a.Consumer, 0, 1)
	},
	"an acknowledgement from another goroutine wakes the reader": func(s *suite) {
		a := s.create()
		ms := s.fill(a.Producer)
		r := s.subscribe(a.Consumer, acknowledged)
		r.takes(ms[:3]...)
		go r.Settle(ms[0].ID())
		<-r.Ready()
		r.Take(nil, 1)
		s.holds(a.Consumer, 0, 3)
	},
}

var cursorTests = map[string]func(*suite){
	"a cursor settles everything up to it": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2", "3")
		s.subscribe(a.Consumer).takes(ms...)
		r := s.subscribe(a.Consumer, after(ms[1].ID().String()))
		if r.Resume() != megaphone.ResumeComplete {
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
			if r.Resume() != megaphone.ResumeComplete {
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
			if r.Resume() != megaphone.ResumeGap {
				s.Errorf("resume %q from %q", r.Resume(), cursor)
			}
			r.takes(ms[2])
		}
	},
	"an empty cursor settles nothing": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1")
		s.subscribe(a.Consumer).takes(ms...)
		r := s.subscribe(a.Consumer, after(""))
		if r.Resume() != megaphone.ResumeNone {
			s.Errorf("resume %q", r.Resume())
		}
		r.takes(ms...)
	},
	"a read without a cursor tells nothing of resuming": func(s *suite) {
		if got := s.subscribe(s.create().Consumer).Resume(); got != megaphone.ResumeNone {
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
		if r.Resume() != megaphone.ResumeGap {
			s.Errorf("resume %q", r.Resume())
		}
		r.takes(ms[3:]...)
	},
}

var memoryTests = map[string]func(*suite){
	"producers wait for memory as for a full channel": func(s *suite) {
		a, b := s.create(), s.create()
		s.limits.MaxMemory = 1 << 10
		first := s.big("first", 1<<10)
		s.no(s.Publish(s.Context(), a.Producer, first, s.limits))
		result := make(chan error, 1)
		go func() { result <- s.Publish(s.Context(), b.Producer, s.big("second", 100), s.limits) }()
		s.waits(result)
		r := s.subscribe(a.Consumer)
		r.takes(first)
		s.waits(result)
		r.Settle(first.ID())
		s.no(s.returned(result))
		s.holds(b.Consumer, 1, 0)
	},
	"a producer that gets no memory in time is told so": func(s *suite) {
		a, b := s.create(), s.create()
		s.limits.MaxMemory = 1 << 10
		s.no(s.Publish(s.Context(), a.Producer, s.big("first", 1<<10), s.limits))
		s.is(s.Publish(s.Context(), b.Producer, s.message("second"), s.limits), megaphone.ErrMemoryLimit)
	},
	"what waits for memory is bounded": func(s *suite) {
		a, b := s.create(), s.create()
		s.limits.MaxMemory = 1 << 10
		s.no(s.Publish(s.Context(), a.Producer, s.big("first", 1<<10), s.limits))
		go func() { _ = s.Publish(s.Context(), b.Producer, s.big("second", 1<<10), s.limits) }()
		synctest.Wait()
		start := time.Now()
		s.is(s.Publish(s.Context(), b.Producer, s.message("third"), s.limits), megaphone.ErrMemoryLimit)
		if time.Since(start) > 0 {
			s.Error("it was held")
		}
		time.Sleep(s.limits.Hold)
	},
	"a message in many channels counts once": func(s *suite) {
		s.limits.MaxMemory = 4 << 10
		var producers []string
		for range 100 {
			producers = append(producers, s.create().Producer)
		}
		for _, outcome := range s.PublishBatch(s.Context(), producers, []*megaphone.Message{s.big("m", 1<<10)}, s.limits) {
			s.no(outcome.Err)
		}
	},
	"a deleted channel frees its memory": func(s *suite) {
		a, b := s.create(), s.create()
		s.limits.MaxMemory = 1 << 10
		s.no(s.Publish(s.Context(), a.Producer, s.big("first", 1<<10), s.limits))
		held := s.hold(s.Context(), b.Producer, "held")
		s.no(s.Delete(s.Context(), a.Producer))
		s.no(s.returned(held))
	},
}

// big makes a message with a body of some bytes.
func (s *suite) big(name string, size int) *megaphone.Message {
	s.Helper()
	body := make([]byte, size)
	for i := range body {
		body[i] = '1'
	}
	m, err := megaphone.NewMessage(name, body, "")
	s.no(err)
	return m
}
