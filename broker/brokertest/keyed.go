package brokertest

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var keyedTests = group{
	"a duplicate is dropped while the first message is pending, in flight or just settled": func(s *suite) {
		a := s.create()
		first, duplicate := s.keyed("first", "key"), s.keyed("duplicate", "key")
		if first.ID() != duplicate.ID() {
			s.Fatalf("one key has the event ids %v and %v", first.ID(), duplicate.ID())
		}
		s.send(a.Producer, first)
		s.send(a.Producer, duplicate)
		s.holds(a.Consumer, 1, 0)
		r := s.subscribe(a.Consumer)
		r.takes(first)
		s.send(a.Producer, duplicate)
		r.takes()
		r.received()
		r.End(broker.EndClean)
		s.send(a.Producer, duplicate)
		s.holds(a.Consumer, 0, 0)
	},
	"a key counts for its channel only": func(s *suite) {
		a, b := s.create(), s.create()
		s.send(a.Producer, s.keyed("m", "key"))
		s.send(b.Producer, s.keyed("m", "key"))
		s.holds(b.Consumer, 1, 0)
	},
	"another key is another message": func(s *suite) {
		a := s.create()
		ms := []*broker.Message{s.keyed("m", "key"), s.keyed("m", "Key")}
		for _, m := range ms {
			s.send(a.Producer, m)
		}
		s.subscribe(a.Consumer).takes(ms...)
	},
	"a held duplicate is dropped when the first message gets in": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		first := s.holdMessage(s.Context(), a.Producer, s.keyed("first", "key"))
		duplicate := s.holdMessage(s.Context(), a.Producer, s.keyed("duplicate", "key"))
		s.subscribe(a.Consumer).one()
		s.no(s.returned(first))
		s.no(s.returned(duplicate))
		s.holds(a.Consumer, s.limits.Buffer, 1)
	},
	"a duplicate is dropped at once although others are held": func(s *suite) {
		a := s.create()
		s.send(a.Producer, s.keyed("first", "key"))
		s.publish(a.Producer, numbers(1, s.limits.Buffer)...)
		held := s.hold(s.Context(), a.Producer, "held")
		start := time.Now()
		s.send(a.Producer, s.keyed("duplicate", "key"))
		in := s.Ingest(s.limits)
		s.no(in.Write(s.Context(), 0, []byte(a.Producer), s.keyed("duplicate", "key")))
		s.finishes(in, 1)
		s.no(s.PublishBatch(s.Context(), []string{a.Producer}, nil, s.limits)[0].Err)
		s.took(start, 0)
		s.waits(held)
		s.holds(a.Consumer, s.limits.Buffer, 0)
	},
	"a held duplicate does not fail if the first message gets in meanwhile": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		first := s.holdMessage(s.Context(), a.Producer, s.keyed("first", "key"))
		before := s.limits
		s.limits.Hold = time.Hour
		between := s.hold(s.Context(), a.Producer, "between")
		s.limits = before
		s.shortHold()
		start := time.Now()
		duplicate := s.begin(s.Context(), a.Producer, s.keyed("duplicate", "key"))
		s.pause()
		s.subscribe(a.Consumer).one()
		s.no(s.returned(first))
		inTime := time.Since(start) < s.limits.Hold
		err, ok := receiveWithin(duplicate, s.patience())
		if !ok {
			s.Fatal("the duplicate waits for longer than its hold time")
		}
		if err != nil && inTime {
			s.Errorf("the duplicate fails with %v", err)
		}
		s.waits(between)
		s.holds(a.Consumer, s.limits.Buffer, 1)
	},
	"a held duplicate is taken if the first message is withdrawn": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		ctx, cancel := context.WithCancel(s.Context())
		first := s.holdMessage(ctx, a.Producer, s.keyed("first", "key"))
		duplicate := s.holdMessage(s.Context(), a.Producer, s.keyed("duplicate", "key"))
		cancel()
		s.is(s.returned(first), context.Canceled)
		s.waits(duplicate)
		s.subscribe(a.Consumer).one()
		s.no(s.returned(duplicate))
		s.holds(a.Consumer, s.limits.Buffer, 1)
	},
	"a message is taken if an earlier one with its key was withdrawn": func(s *suite) {
		a := s.create()
		s.fill(a.Producer)
		ctx, cancel := context.WithTimeout(s.Context(), s.pick(time.Second, 100*time.Millisecond))
		defer cancel()
		s.is(s.Publish(ctx, a.Producer, s.keyed("m", "key"), s.limits), context.DeadlineExceeded)
		s.subscribe(a.Consumer).one()
		s.send(a.Producer, s.keyed("m", "key"))
		s.holds(a.Consumer, s.limits.Buffer, 1)
	},
	"a duplicate is dropped however the channel let the first message go": func(s *suite) {
		for how, letGo := range lettingGo {
			s.Log("the first message is let go", how)
			a := s.create()
			first := s.keyed("first", "key")
			s.send(a.Producer, first)
			next := s.publish(a.Producer, "next")[0]
			held := letGo(s, a, first, next)
			held = append(held, s.publish(a.Producer, "later 1", "later 2")...)
			s.drops(a.Producer, "key")
			// A reader that has only the first message has missed something. If the channel took a duplicate, the reader's cursor
			// would name that, and seem to be up to date.
			r := s.subscribe(a.Consumer, after(first.ID().String()))
			if r.Resume() != broker.ResumeGap {
				s.Errorf("the read resumes %q, want a gap", r.Resume())
			}
			r.takes(held[:min(len(held), s.limits.InFlight)]...)
		}
	},
	"a duplicate is dropped if the first message is let go while the duplicate is held": func(s *suite) {
		full, a := s.useUpMemory(), s.create()
		scarce := s.limits
		s.limits.MaxMemory = 1 << 30
		s.fill(a.Producer)
		first := s.holdMessage(s.Context(), a.Producer, s.keyed("first", "key"))
		next := s.hold(s.Context(), a.Producer, "next")
		plenty := s.limits
		s.limits = scarce
		between := s.hold(s.Context(), a.Producer, "between")
		s.limits = plenty
		duplicate := s.holdMessage(s.Context(), a.Producer, s.keyed("duplicate", "key"))
		r := s.subscribe(a.Consumer, acknowledged)
		for range s.limits.Buffer + 2 {
			r.Settle(r.one().ID())
		}
		s.no(s.returned(first))
		s.no(s.returned(next))
		s.waits(between)
		s.delete(full.Consumer)
		s.no(s.returned(between))
		s.no(s.returned(duplicate))
		s.holds(a.Consumer, 1, 0)
	},
	"a duplicate is dropped until enough keyed messages have been let go": func(s *suite) {
		const half = 16 // of a batch
		s.limits.Buffer, s.limits.InFlight = 2*half, 2*half
		a := s.create()
		r := s.subscribe(a.Consumer, acknowledged)
		for i := 0; i < broker.KeyWindow; i += half {
			var ms []*broker.Message
			for key := i; key < i+half; key++ {
				ms = append(ms, s.keyed("keyed", fmt.Sprint(key)), s.message("another"))
			}
			s.no(s.PublishBatch(s.Context(), []string{a.Producer}, ms, s.limits)[0].Err)
			if got := r.next(len(ms)); !same(got, ms) {
				s.Fatalf("the reader took %q, want %q", lines(got), lines(ms))
			}
			r.Settle(ms[len(ms)-1].ID())
		}
		s.holds(a.Consumer, 0, 0)
		s.drops(a.Producer, fmt.Sprint(0))
		s.holds(a.Consumer, 0, 0)
	},
}

// lettingGo are the ways in which a channel lets messages go. Each function makes the channel let go of its first two
// messages, and returns those that it holds then.
var lettingGo = map[string]func(s *suite, a broker.Addresses, ms ...*broker.Message) (held []*broker.Message){
	"because of a cursor": func(s *suite, a broker.Addresses, ms ...*broker.Message) []*broker.Message {
		s.subscribe(a.Consumer).takes(ms...)
		s.subscribe(a.Consumer, after(ms[1].ID().String()))
		return nil
	},
	"because of an acknowledgement": func(s *suite, a broker.Addresses, ms ...*broker.Message) []*broker.Message {
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		r.Settle(ms[1].ID())
		return nil
	},
	"because of a clean end": func(s *suite, a broker.Addresses, ms ...*broker.Message) []*broker.Message {
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		r.received()
		r.End(broker.EndClean)
		return nil
	},
	"because newer messages needed the window": func(s *suite, a broker.Addresses, ms ...*broker.Message) []*broker.Message {
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		r.received()
		newer := s.publish(a.Producer, numbers(0, s.limits.InFlight)...)
		r.takes(newer...)
		r.received()
		r.End(broker.EndFault)
		return newer
	},
}

// drops publishes duplicates in every way, and checks that the channel drops them.
func (s *suite) drops(producer, key string) {
	s.Helper()
	before := s.state(producer)
	s.send(producer, s.keyed("duplicate", key))
	duplicates := []*broker.Message{s.keyed("duplicate", key), s.keyed("duplicate", key)}
	outcome := s.PublishBatch(s.Context(), []string{producer}, duplicates, s.limits)[0]
	if outcome != (broker.Outcome{Accepted: 2}) {
		s.Errorf("the outcome of duplicates is %+v", outcome)
	}
	in := s.Ingest(s.limits)
	s.no(in.Write(s.Context(), 0, []byte(producer), duplicates[0]))
	s.finishes(in, 1)
	s.holds(producer, before.Pending, before.InFlight)
}
