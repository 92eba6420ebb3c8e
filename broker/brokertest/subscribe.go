package brokertest

import (
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/broker"
)

var subscribeTests = map[string]func(*suite){
	"no more readers than allowed, but who takes over is let in": func(s *suite) {
		s.limits.MaxReaders = 1
		a, b := s.create(), s.create()
		o := broker.SubscribeOptions{Limits: s.limits}
		sub, err := s.Subscribe(s.Context(), a.Consumer, o)
		s.no(err)
		for range 3 {
			_, err = s.Subscribe(s.Context(), b.Consumer, o)
			s.is(err, broker.ErrReaderLimit)
		}
		o.TakeOver = true
		next, err := s.Subscribe(s.Context(), a.Consumer, o)
		s.no(err)
		sub.End(broker.EndClean) // is not the reader any more
		_, err = s.Subscribe(s.Context(), b.Consumer, o)
		s.is(err, broker.ErrReaderLimit)
		next.End(broker.EndFault)
		last, err := s.Subscribe(s.Context(), b.Consumer, o)
		s.no(err)
		s.no(s.Delete(s.Context(), b.Consumer)) // ends a read too
		_, err = s.Subscribe(s.Context(), a.Consumer, o)
		s.no(err)
		last.End(broker.EndClean)
	},
	"a channel has one reader": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		_, err := s.Subscribe(s.Context(), a.Consumer, broker.SubscribeOptions{Limits: s.limits})
		s.is(err, broker.ErrBusy)
		r.End(broker.EndClean)
		s.subscribe(a.Consumer)
	},
	"a reader can take over": func(s *suite) {
		a := s.create()
		old := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2")
		old.takes(ms...)
		r := s.subscribe(a.Consumer, takeOver)
		old.over(broker.ErrTakenOver)
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
		old.End(broker.EndClean)
		s.holds(a.Consumer, 0, 2)
		r.takes(ms...)
		if _, err := s.Subscribe(s.Context(), a.Consumer, broker.SubscribeOptions{Limits: s.limits}); err == nil {
			s.Error("its end has given the channel free")
		}
	},
	"a reader that has ended has no effect": func(s *suite) {
		a := s.create()
		old := s.subscribe(a.Consumer)
		s.publish(a.Producer, "1")
		old.takeAll()
		old.End(broker.EndFault)
		r := s.subscribe(a.Consumer)
		old.End(broker.EndClean)
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
		r.End(broker.EndFault)
		ms = append(ms, s.publish(a.Producer, "3")...)
		s.subscribe(a.Consumer).takes(ms...)
	},
	"a clean end settles what was received": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		s.publish(a.Producer, "1", "2")
		r.takeAll()
		r.received()
		r.End(broker.EndClean)
		s.holds(a.Consumer, 0, 0)
	},
	"a clean end does not settle what was not received": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2")
		r.takes(ms...)
		r.Received(1)
		r.End(broker.EndClean)
		s.subscribe(a.Consumer).takes(ms[1])
	},
	"a clean end settles nothing in a channel that follows cursors": func(s *suite) {
		a := s.create()
		s.subscribe(a.Consumer, follow).End(broker.EndClean)
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2")
		r.takes(ms...)
		r.received()
		r.End(broker.EndClean)
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
	"a reader that is a notifier is called, once, when there is something": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		notifier, ok := r.Subscription.(broker.Notifier)
		if !ok {
			s.Skip("this broker's subscriptions are none")
		}
		called := make(chan struct{}, 10)
		calls := func(want int) {
			s.Helper()
			synctest.Wait()
			if len(called) != want {
				s.Fatalf("called %d times, want %d", len(called), want)
			}
		}
		notify := func(want bool) {
			s.Helper()
			if notifier.Notify(func() { called <- struct{}{} }) != want {
				s.Fatalf("notify says %v", !want)
			}
		}
		notify(true)
		notify(true) // in the place of the other
		calls(0)
		ms := s.publish(a.Producer, "1", "2")
		calls(1)
		notify(false)
		calls(1)
		r.takes(ms...)
		notify(true)
		r.Settle(ms[0].ID()) // which makes no room that was missing
		calls(1)
		s.no(s.Delete(s.Context(), a.Producer))
		calls(2)
		notify(false)
		calls(2)
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
		r.End(broker.EndClean)
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
		r.takes(ms[len(ms)-1]) // nobody has acknowledged yet
		r.Settle(ms[len(ms)-1].ID())

		r = s.subscribe(a.Consumer, may)
		ms = s.fill(a.Producer)
		r.takes(ms[:s.limits.InFlight]...)
		r.received()
		r.takes()
		r = s.subscribe(a.Consumer, takeOver) // is one that does not
		r.takes(ms[:s.limits.InFlight]...)
		r.received()
		r.takes(ms[s.limits.InFlight:]...)
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
	"an acknowledgement lets producers in": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer, acknowledged)
		ms := s.publish(a.Producer, "1", "2", "3")
		r.takes(ms...)
		s.fill(a.Producer)
		r.takes()
		held := s.hold(s.Context(), a.Producer, "held")
		r.Settle(ms[0].ID())
		r.takeAll()
		s.no(s.returned(held))
	},
	"a pending message cannot be acknowledged": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2")
		r := s.subscribe(a.Consumer)
		r.Take(nil, 1)
		if r.Settle(ms[1].ID()) {
			s.Error("it is found")
		}
		s.holds(a.Consumer, 1, 1)
	},
	"what is to come again can be acknowledged before": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2", "3")
		s.subscribe(a.Consumer).takes(ms...)
		r := s.subscribe(a.Consumer, takeOver)
		r.Settle(ms[1].ID())
		r.takes(ms[2])
	},
	"a reader whose channel is deleted has no effect": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1")
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		s.no(s.Delete(s.Context(), a.Consumer))
		r.over(broker.ErrNotFound)
		r.received()
		if r.Settle(ms[0].ID()) {
			s.Error("it settled")
		}
		if got, full := r.Take(nil, 1); len(got) > 0 || full {
			s.Error("it took something")
		}
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
