package brokertest

import (
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var topicDrainTests = group{
	"a drained member gets no messages":               drainedMember,
	"a drained member gets the end of a closed topic": endOfDrainedMember,
	"a drain makes members miss what waits": func(s *suite) {
		t, d := s.drainedTopics()
		a := t.member("news")
		first := t.fill(a.Producer)
		got, waits := t.begin(t.Context(), "news", t.message("missed"))
		d.Drain(0)
		t.told(got, waits, broker.Published{Members: 1, Full: 1})
		t.holds(a.Consumer, t.limits.Buffer, 0)
		d.Undrain()
		r := t.subscribe(a.Consumer)
		r.takes(first[:t.limits.InFlight]...)
		later := t.tells("news", "later")[0]
		r.received()
		r.takes(first[t.limits.InFlight], later.Missed(1))
	},
	"a drain brings the end that waits": func(s *suite) {
		t, d := s.drainedTopics()
		a := t.member("news")
		first := t.fill(a.Producer)
		got, waits := t.begin(t.Context(), "news", t.message("missed"))
		end := t.end("news")
		d.Drain(0)
		t.holds(a.Consumer, t.limits.Buffer+1, 0)
		t.told(got, waits, broker.Published{Members: 1, Full: 1})
		r := t.subscribe(a.Consumer, acknowledged)
		r.takes(first[:t.limits.InFlight]...)
		r.Settle(first[t.limits.InFlight-1].ID())
		if r.Drained() {
			t.Error("the channel is drained before the end is taken")
		}
		r.takes(first[t.limits.InFlight], end.Missed(1))
		if !r.Drained() {
			t.Error("the channel is not drained after the end is taken")
		}
		r.Settle(end.ID())
		d.done(0)
		t.nothing("news")
	},
	"an end that has waited is there when the drain is undone": func(s *suite) {
		t, d := s.drainedTopics()
		t.limits.InFlight = 1000
		a := t.member("1", "2")
		ms := t.fill(a.Producer)
		gotOne, waitsOne := t.begin(t.Context(), "1", t.message("missed"))
		ms = append(ms, t.end("1").Missed(1))
		gotTwo, waitsTwo := t.begin(t.Context(), "2", t.message("missed"))
		held := t.hold(t.Context(), a.Producer, "refused")
		ms = append(ms, t.end("2").Missed(1))
		behind := t.hold(t.Context(), a.Producer, "refused")
		d.Drain(0)
		t.is(t.returned(held), broker.ErrNotFound)
		t.is(t.returned(behind), broker.ErrNotFound)
		d.Undrain()
		t.holds(a.Consumer, len(ms), 0)
		t.told(gotOne, waitsOne, broker.Published{Members: 1, Full: 1})
		t.told(gotTwo, waitsTwo, broker.Published{Members: 1, Full: 1})
		t.limits.Buffer = 1000
		ms = append(ms, t.publish(a.Producer, "later")...)
		t.subscribe(a.Consumer).takes(ms...)
		if b, ok := t.Broker.(broker.Statser); ok {
			if s := b.Stats(); s.Skipped != 2 || s.Unroutable != 2 || s.HeldProducers != 0 || s.HeldBytes != 0 {
				t.Errorf("the statistics are %+v", s)
			}
		}
	},
	"a repeat that waits has not failed when its channel is drained": func(s *suite) {
		t, d := s.drainedTopics()
		t.keep("news", 10_000, time.Hour)
		t.tell("news", t.keyed("m", "key"), broker.FullMiss, broker.Published{})
		a := t.member("other")
		t.fill(a.Producer)
		held := t.hold(t.Context(), a.Producer, "held")
		got, waits := t.begin(t.Context(), "other", t.keyed("m", "key"))
		repeat := t.holdMessage(t.Context(), a.Producer, t.keyed("m", "key"))
		t.join(a, "news", broker.LastAll)
		d.Drain(0)
		t.is(t.returned(held), broker.ErrNotFound)
		t.told(got, waits, accepted)
		t.no(t.returned(repeat))
	},
}

// drainedTopics returns the suite for topics and for drains of channels.
func (s *suite) drainedTopics() (*topical, drainer) {
	s.Helper()
	return s.topics(), s.drainer()
}

func drainedMember(s *suite) {
	t, d := s.drainedTopics()
	a := t.member("news")
	m := t.tells("news", "m")[0]
	d.Drain(0)
	r := t.subscribe(a.Consumer)
	r.takes(m)
	if !t.eventually(r.Drained) {
		t.Fatal("the channel is not drained")
	}
	t.tell("news", t.message("n"), broker.FullMiss, broker.Published{})
	t.has("news", 1, 1)
	t.is(t.Join(t.Context(), a.Producer, broker.Join{Topic: "another"}, t.limits), broker.ErrNotFound)
	d.Undrain()
	later := t.message("later")
	t.tell("news", later, broker.FullMiss, broker.Published{Members: 1, Accepted: 1})
	r.takes(later.Missed(1))
	if b, ok := t.Broker.(broker.Statser); ok {
		if s := b.Stats(); s.Skipped != 0 {
			t.Errorf("%d messages are skipped", s.Skipped)
		}
	}
}

// endOfDrainedMember: closing a topic is acknowledged, and does not say who has the end. So all members get it.
func endOfDrainedMember(s *suite) {
	t, d := s.drainedTopics()
	t.limits.InFlight = 1000
	a, b := t.member("1", "2"), t.create() // which does not know topics
	t.join(b, "1", 0)
	ms := t.fill(a.Producer)
	t.publish(b.Producer, "m")
	r := t.subscribe(a.Consumer)
	r.takes(ms...)
	d.Drain(0)
	if !t.eventually(r.Drained) {
		t.Fatal("the channel is not drained")
	}
	t.refuses(b.Producer)
	t.tell("1", t.message("missed"), broker.FullHold, broker.Published{})
	ms = append(ms, t.end("1").Missed(1), t.end("2"))
	if r.Drained() {
		t.Error("the channel is drained before the ends are taken")
	}
	r.takes(ms[len(ms)-2:]...)
	if !r.Drained() {
		t.Error("the channel is not drained after the ends are taken")
	}
	r.End(broker.EndFault)
	t.holds(a.Consumer, 0, len(ms))
	t.holds(b.Consumer, 1, 0)
	d.Undrain()
	ms = append(ms, t.publish(a.Producer, "later")...)
	t.subscribe(a.Consumer).takes(ms...)
}
