package brokertest

import (
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

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
		s.is(s.Publish(s.Context(), b.Producer, s.message("second"), s.limits), broker.ErrMemoryLimit)
	},
	"what waits for memory is bounded": func(s *suite) {
		a, b := s.create(), s.create()
		s.limits.MaxMemory = 1 << 10
		s.no(s.Publish(s.Context(), a.Producer, s.big("first", 1<<10), s.limits))
		go func() { _ = s.Publish(s.Context(), b.Producer, s.big("second", 1<<10), s.limits) }()
		synctest.Wait()
		start := time.Now()
		s.is(s.Publish(s.Context(), b.Producer, s.message("third"), s.limits), broker.ErrMemoryLimit)
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
		for _, outcome := range s.PublishBatch(s.Context(), producers, []*broker.Message{s.big("m", 1<<10)}, s.limits) {
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
func (s *suite) big(name string, size int) *broker.Message {
	s.Helper()
	body := make([]byte, size)
	for i := range body {
		body[i] = '1'
	}
	m, err := broker.NewMessage(name, body, "")
	s.no(err)
	return m
}
