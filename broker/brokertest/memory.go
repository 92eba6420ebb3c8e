package brokertest

import (
	"context"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// Most of these tests are for every Broker, because Limits.MaxMemory is. They publish messages until the Broker refuses one,
// because a store may count bytes in its own way.
var memoryTests = group{
	"producers wait for memory as for a full channel": func(s *suite) {
		full, a := s.useUpMemory(), s.create()
		m := s.message("m")
		result := s.holdMessage(s.Context(), a.Producer, m)
		r := s.subscribe(full.Consumer, acknowledged)
		s.waits(result)
		for {
			taken := r.takeAtLeast(s.limits.InFlight)
			if len(taken) == 0 {
				s.Fatal("a producer waits, although there are no messages any more")
			}
			r.Settle(taken[len(taken)-1].ID())
			if s.pause(); len(result) > 0 {
				break
			}
		}
		s.no(s.returned(result))
		s.subscribe(a.Consumer).takes(m)
	},
	"a producer that gets no memory within the hold time learns why": func(s *suite) {
		s.useUpMemory()
		s.shortHold()
		a := s.create()
		start := time.Now()
		held := s.begin(s.Context(), a.Producer, s.message("held"))
		s.returnsAfterHold(held, start, broker.ErrMemoryLimit)
		s.holds(a.Consumer, 0, 0)
	},
	"without a hold time a producer that gets no memory is refused at once": func(s *suite) {
		s.useUpMemory()
		a := s.create()
		s.limits.Hold = 0
		start := time.Now()
		s.is(s.Publish(s.Context(), a.Producer, s.message("m"), s.limits), broker.ErrMemoryLimit)
		if s.PublishNow(a.Producer, s.message("m"), s.limits) {
			s.Error("PublishNow has taken a message")
		}
		s.took(start, 0)
	},
	"a deleted channel frees its memory": func(s *suite) {
		full, a := s.useUpMemory(), s.create()
		held := s.hold(s.Context(), a.Producer, "held")
		s.delete(full.Producer)
		s.no(s.returned(held))
	},
	"a larger limit of a newer configuration counts": func(s *suite) {
		s.useUpMemory()
		a := s.create()
		s.limits.MaxMemory *= 8
		s.publish(a.Producer, "m")
	},
	"a message in many channels counts once": func(s *suite) {
		b := implementing[broker.MemoryUser](s)
		s.limits.MaxMemory = 4 << 10
		var producers []string
		for range 100 {
			producers = append(producers, s.create().Producer)
		}
		m := s.big("m", 1<<10)
		for _, outcome := range s.PublishBatch(s.Context(), producers, []*broker.Message{m}, s.limits) {
			s.no(outcome.Err)
		}
		if used := b.MemoryUsed(); used != m.Size() {
			s.Errorf("a message of %d bytes takes %d", m.Size(), used)
		}
	},
	"the messages that wait for memory are bounded": func(s *suite) {
		implementing[broker.MemoryUser](s)
		s.useUpMemory()
		a := s.create()
		const producers = 64
		results := make(chan error, producers)
		for range producers {
			m, l := s.big("held", int(s.limits.MaxMemory)/16), s.limits
			go func() { results <- s.Publish(s.Context(), a.Producer, m, l) }()
		}
		if !s.eventually(func() bool { return len(results) >= producers-16 }) {
			s.Fatalf("%d messages are held, which take four times the memory", producers-len(results))
		}
		for range len(results) {
			s.is(<-results, broker.ErrMemoryLimit)
		}
	},
	"the messages that wait for room are in memory too": func(s *suite) {
		b := implementing[broker.MemoryUser](s)
		a := s.create()
		size := totalSize(s.fill(a.Producer))
		m := s.message("held")
		ctx, cancel := context.WithCancel(s.Context())
		held := s.holdMessage(ctx, a.Producer, m)
		if used := b.MemoryUsed(); used != size+m.Size() {
			s.Errorf("%d bytes are in use, want %d", used, size+m.Size())
		}
		cancel()
		s.is(s.returned(held), context.Canceled)
		if used := b.MemoryUsed(); used != size {
			s.Errorf("%d bytes are in use after the message was withdrawn, want %d", used, size)
		}
	},
	"the memory in use goes back to zero": func(s *suite) {
		b := implementing[broker.MemoryUser](s)
		uses := func(want int64) {
			s.Helper()
			if !s.eventually(func() bool { return b.MemoryUsed() == want }) {
				s.Fatalf("%d bytes are in use, want %d", b.MemoryUsed(), want)
			}
		}
		uses(0)
		settled, deleted, expired := s.create(), s.create(), s.create()
		m, another := s.big("m", 1000), s.big("another", 2000)
		producers := []string{settled.Producer, deleted.Producer, expired.Producer}
		for _, outcome := range s.PublishBatch(s.Context(), producers, []*broker.Message{m}, s.limits) {
			s.no(outcome.Err)
		}
		s.send(settled.Producer, another)
		uses(m.Size() + another.Size())
		r := s.subscribe(settled.Consumer)
		r.next(2)
		uses(m.Size() + another.Size()) // in flight
		r.Settle(another.ID())
		uses(m.Size())
		s.delete(deleted.Producer)
		uses(m.Size())
		if expires := s.expire(expired.Consumer); !s.realTime {
			time.Sleep(time.Until(expires) + sweep)
		}
		uses(0)
	},
}

// useUpMemory sets a small limit for memory. Then it publishes messages to a channel until the Broker refuses one for want
// of memory.
func (s *suite) useUpMemory() (full broker.Addresses) {
	s.Helper()
	s.limits.MaxMemory = 64 << 10
	a, l := s.create(), s.limits
	l.Buffer, l.Hold = 1000, 0
	for used := int64(0); ; {
		m := s.big("large", 4<<10)
		err := s.Publish(s.Context(), a.Producer, m, l)
		if err == nil {
			used += m.Size()
		} else {
			s.is(err, broker.ErrMemoryLimit)
		}
		least, most := l.MaxMemory, l.MaxMemory+m.Size()-1
		if s.realTime {
			least, most = l.MaxMemory/4, l.MaxMemory*4
		}
		if used > most || err != nil && used < least {
			s.Fatalf("the Broker has taken %d bytes, and returns %v; the memory is used up at %d", used, err, l.MaxMemory)
		}
		if err != nil {
			return a
		}
	}
}
