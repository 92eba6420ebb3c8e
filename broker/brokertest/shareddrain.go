package brokertest

import (
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// The drain of a Broker that shares its channels with others. Only its reads end.
var sharedDrainTests = group{
	"reads end, and channels stay": func(s *suite) {
		d := s.sharedDrainer()
		a := s.create()
		r := s.subscribe(a.Consumer)
		ms := s.publish(a.Producer, "1")
		r.takes(ms...)
		if r.Drained() {
			s.Error("the reader is drained, and nobody drains it")
		}
		state := d.Drain(0)
		if !state.Active || state.Done || state.Channels != 1 || state.Remaining != 1 {
			s.Errorf("the state is %+v at the start", state)
		}
		_, err := s.Create(s.Context(), "agent", s.limits)
		s.is(err, broker.ErrDraining)
		if !r.ready(true) || !r.Drained() {
			s.Errorf("the reader does not learn it; drained is %v", r.Drained())
		}
		ms = append(ms, s.publish(a.Producer, "2")...)
		if got := r.takeAtLeast(1); !same(got, ms[1:]) {
			s.Errorf("the reader took %q, want %q", lines(got), lines(ms[1:]))
		}
		r.End(broker.EndFault)
		if state := d.DrainState(); !state.Done || state.Remaining != 0 {
			s.Errorf("the state is %+v after the last read", state)
		}
		again := s.subscribe(a.Consumer)
		again.takes(ms...)
		if !again.Drained() {
			s.Error("a reader that comes during a drain is not drained")
		}
		d.Undrain()
		if state := d.DrainState(); state != (broker.DrainState{}) || again.Drained() {
			s.Errorf("the state is %+v after the drain, and drained is %v", state, again.Drained())
		}
		s.create()
	},
	"what waits, and the end of a topic behind it, waits on": func(s *suite) {
		t, d := s.topics(), s.sharedDrainer()
		a := t.member("news")
		first := t.fill(a.Producer)
		m := t.message("m")
		got, waits := t.begin(t.Context(), "news", m)
		end := t.end("news")
		d.Drain(0)
		t.waits(waits)
		t.holds(a.Consumer, t.limits.Buffer, 0)
		d.Undrain()
		r := t.subscribe(a.Consumer)
		r.takes(first[:t.limits.InFlight]...)
		t.told(got, waits, accepted)
		r.received()
		r.takes(first[t.limits.InFlight], m, end)
	},
	"reads end over the given time": func(s *suite) {
		d := s.sharedDrainer()
		const readers = 10
		var all []*reader
		for range readers {
			all = append(all, s.subscribe(s.create().Consumer))
		}
		over := s.pick(10*time.Second, time.Second)
		start := time.Now()
		d.Drain(over)
		for left := all; len(left) > 0; {
			var rest []*reader
			for _, r := range left {
				if r.Drained() {
					r.End(broker.EndClean)
				} else {
					rest = append(rest, r)
				}
			}
			// If the Broker stands for several servers, each may end a read at once.
			if passed := time.Since(start); len(rest) < readers/2-int(readers*passed/over) {
				s.Fatalf("%d of %d readers are left after %v of %v", len(rest), readers, passed, over)
			}
			if left = rest; time.Since(start) > over+patience {
				s.Fatalf("%d readers are left after %v", len(left), time.Since(start))
			}
			time.Sleep(over / 50)
		}
		s.took(start, over*(readers-1)/readers)
		if state := d.DrainState(); !state.Done || state.Channels != readers {
			s.Errorf("the state is %+v after the last read", state)
		}
	},
	"a drain without readers is done": func(s *suite) {
		d := s.sharedDrainer()
		s.create()
		if state := d.Drain(time.Hour); !state.Active || !state.Done {
			s.Errorf("the state is %+v", state)
		}
	},
	"a drain can begin again with another time": func(s *suite) {
		d := s.sharedDrainer()
		all := []*reader{s.subscribe(s.create().Consumer), s.subscribe(s.create().Consumer)}
		if state := d.Drain(time.Hour); state.Channels != 2 || state.Over != time.Hour {
			s.Errorf("the state is %+v", state)
		}
		d.Drain(0)
		if !s.eventually(func() bool { return all[0].Drained() && all[1].Drained() }) {
			s.Error("a reader is not drained")
		}
	},
}

func (s *suite) sharedDrainer() broker.Drainer {
	s.Helper()
	if !s.shared {
		s.Skip("the Broker does not share its channels with others")
	}
	return implementing[broker.Drainer](s)
}
