package brokertest

import (
	"errors"

	"github.com/caddy-megaphone/megaphone/broker"
)

var subscribeTests = group{
	"there are no more readers than allowed, except those that take over": func(s *suite) {
		s.limits.MaxReaders = 1
		a, b := s.create(), s.create()
		first := s.subscribe(a.Consumer)
		for range 3 {
			_, err := s.trySubscribe(b.Consumer)
			s.is(err, broker.ErrReaderLimit)
		}
		next := s.subscribe(a.Consumer, takeOver)
		first.End(broker.EndClean) // it is no longer the reader
		_, err := s.trySubscribe(b.Consumer)
		s.is(err, broker.ErrReaderLimit)
		_, err = s.trySubscribe(b.Consumer, takeOver) // there is nobody to take over from
		s.is(err, broker.ErrReaderLimit)
		next.End(broker.EndFault)
		last := s.subscribe(b.Consumer)
		s.delete(b.Consumer) // ends a read too
		s.subscribe(a.Consumer)
		last.End(broker.EndClean)
	},
	"a channel has one reader": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		_, err := s.trySubscribe(a.Consumer)
		s.is(err, broker.ErrBusy)
		r.End(broker.EndClean)
		s.subscribe(a.Consumer)
	},
	"a reader can take over": func(s *suite) {
		a := s.create()
		old := s.subscribe(a.Consumer)
		if !silent(s, old.Done()) || old.Err() != nil {
			s.Errorf("the subscription is over with %v", old.Err())
		}
		ms := s.publish(a.Producer, "1", "2")
		old.takes(ms...)
		r := s.subscribe(a.Consumer, takeOver)
		old.over(broker.ErrTakenOver)
		r.takes(ms...)
	},
	"a reader that was taken over has no effect": func(s *suite) {
		a := s.create()
		old := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2")
		old.takes(ms...)
		r := s.subscribe(a.Consumer, takeOver)
		old.over(broker.ErrTakenOver)
		ms = append(ms, s.publish(a.Producer, "3")...)
		s.hasNoEffect(old, ms[1])
		old.End(broker.EndClean)
		s.holds(a.Consumer, 1, 2)
		r.takes(ms...)
		if _, err := s.trySubscribe(a.Consumer); !errors.Is(err, broker.ErrBusy) {
			s.Errorf("a third reader gets the error %v, although the second is there", err)
		}
	},
	"a reader that has ended has no effect": func(s *suite) {
		a := s.create()
		old := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1")
		old.takes(ms...)
		old.End(broker.EndFault)
		r := s.subscribe(a.Consumer)
		ms = append(ms, s.publish(a.Producer, "2")...)
		s.hasNoEffect(old, ms[0])
		old.End(broker.EndClean)
		s.holds(a.Consumer, 1, 1)
		if !s.state(a.Consumer).Connected {
			s.Error("the second end of the first read has ended the second read")
		}
		r.takes(ms...)
	},
	"a reader whose channel is deleted has no effect": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1")
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		s.delete(a.Consumer)
		r.over(broker.ErrNotFound)
		s.hasNoEffect(r, ms[0])
	},
	"a fault settles nothing: messages in flight are sent again, before newer ones": func(s *suite) {
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
		r.takes(s.publish(a.Producer, "1", "2")...)
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
	"a clean end settles nothing after an acknowledgement": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1", "2")
		r.takes(ms...)
		r.Settle(ms[0].ID())
		r.received()
		r.End(broker.EndClean)
		s.subscribe(a.Consumer).takes(ms[1])
	},
	"a reader learns of a message": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		if !silent(s, r.Ready()) {
			s.Error("Ready has a value, and there is no message")
		}
		s.publish(a.Producer, "1")
		if !r.ready(true) {
			s.Error("Ready has no value, and there is a message")
		}
	},
	"take stops at the given number of bytes": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2", "3")
		r := s.subscribe(a.Consumer)
		if !r.ready(true) {
			s.Fatal("Ready has no value, and there are messages")
		}
		first, full := r.Take(nil, len(ms[0].Line())+1)
		if full || len(first) > 2 || len(first) < 2 && !s.realTime { // a store may be slow to send the second
			s.Fatalf("the reader took %q, and full is %v", lines(first), full)
		}
		for r.taken = len(first); r.taken < len(ms); {
			first = append(first, r.one())
		}
		if !same(first, ms) {
			s.Errorf("the reader took %q, want %q", lines(first), lines(ms))
		}
	},
	"take appends": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1")
		r := s.subscribe(a.Consumer)
		before := s.message("before")
		for dst := []*broker.Message{before}; r.ready(true); {
			if dst, _ = r.Take(dst, allBytes); len(dst) > 1 {
				if !same(dst, []*broker.Message{before, ms[0]}) {
					s.Errorf("the slice has %q", lines(dst))
				}
				return
			}
		}
		s.Error("there is no message")
	},
	"a channel that nobody drains is not drained": func(s *suite) {
		if r := s.subscribe(s.create().Consumer); r.Drained() {
			s.Error("the channel is drained")
		}
	},
}

// hasNoEffect uses a subscription that is over as if it were not.
func (s *suite) hasNoEffect(r *reader, taken *broker.Message) {
	s.Helper()
	if got, full := r.Take(nil, allBytes); len(got) > 0 || full {
		s.Errorf("a reader that is over took %q, and full is %v", lines(got), full)
	}
	r.received()
	if r.Settle(taken.ID()) {
		s.Error("a reader that is over has settled a message")
	}
	if r.Drained() {
		s.Error("a reader that is over is drained")
	}
}
