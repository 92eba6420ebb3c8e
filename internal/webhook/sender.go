package webhook

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/warning"
)

// A Sender has the queue of one webhook. It posts the queued events to the receiver in order, a batch at a time. All
// configurations with the same webhook share the Sender. Its settings are those of the configuration that reports events
// now. Any number of goroutines may call its methods.
type Sender struct {
	event    string // the name of its events
	settings atomic.Pointer[Settings]
	metrics  *Metrics
	client   *http.Client

	mu      sync.Mutex
	queue   []Event
	ended   bool          // nobody takes from the queue any more
	wake    chan struct{} // receives a value when the queue is not empty
	dropped warning.Limiter

	configured context.Context // ends with errRemoved when no configuration has the webhook any more
	remove     context.CancelCauseFunc
	finishBy   time.Time               // when ctx ends; valid once configured has ended
	ctx        context.Context         // of all requests
	giveUp     context.CancelCauseFunc // ends ctx: events that are left are lost
	done       chan struct{}           // closed when the goroutine has ended
}

// NewSender returns a sender for events with this name. It has a goroutine, which [Sender.Destruct] ends.
func NewSender(event string, settings *Settings, m *Metrics) *Sender {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment}
	if standard, ok := http.DefaultTransport.(*http.Transport); ok { // other modules may have replaced it
		transport = standard.Clone()
	}
	transport.MaxIdleConnsPerHost = 1
	s := &Sender{
		event:   event,
		metrics: m,
		client: &http.Client{
			Transport: transport,
			// The specification forbids following redirects: the events would go elsewhere.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		wake: make(chan struct{}, 1),
		done: make(chan struct{}),
	}
	s.ctx, s.giveUp = context.WithCancelCause(context.Background())
	s.configured, s.remove = context.WithCancelCause(s.ctx)
	s.settings.Store(settings)
	// This shows the metrics from the start, as zero.
	m.Queued.WithLabelValues(s.event)
	m.Delivered.WithLabelValues(s.event)
	m.Lost.WithLabelValues(s.event)
	m.Failures.WithLabelValues(s.event)
	go s.run()
	return s
}

// Configure replaces the settings. They apply from the next request on.
func (s *Sender) Configure(settings *Settings) { s.settings.Store(settings) }

// Enqueue adds events to the queue, as many as it has room for. The others are lost, which Enqueue counts and, now and
// then, logs. It never waits for the receiver, and does not keep the slice. After the webhook was removed and its queue is
// empty, all events are lost.
func (s *Sender) Enqueue(events []Event) {
	limit := s.settings.Load().Queue
	s.mu.Lock()
	ended, room := s.ended, min(len(events), max(0, limit-len(s.queue)))
	if ended { // a read may end after its configuration
		room = 0
	}
	s.queue = append(s.queue, events[:room]...)
	s.metrics.Queued.WithLabelValues(s.event).Add(float64(room))
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	if lost := len(events) - room; lost > 0 {
		s.metrics.Lost.WithLabelValues(s.event).Add(float64(lost))
		if lost := s.dropped.Due(lost); lost > 0 {
			problem := "the queue of a webhook is full: announcements are lost"
			if ended {
				problem = "a webhook is not configured any more: announcements are lost"
			}
			s.logger().Error(problem, zap.Int64("lost", lost), zap.Int("queue", limit))
		}
	}
}

// take removes the next batch from the queue. The batch is empty if the queue is.
func (s *Sender) take() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next()
}

// takeLast is like take. But if the queue is empty, it ends the queue.
func (s *Sender) takeLast() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = len(s.queue) == 0
	return s.next()
}

// next removes the next batch from the queue. The caller holds the lock.
func (s *Sender) next() []Event {
	n := 0
	for size := bodyFrame; n < len(s.queue); n++ {
		if size += s.queue[n].size(s.event); size > maxBody && n > 0 {
			break
		}
	}
	batch := s.queue[:n]
	s.queue = s.queue[len(batch):]
	if len(s.queue) == 0 {
		s.queue = nil // so that its memory is free once the batch is delivered
	}
	s.metrics.Queued.WithLabelValues(s.event).Sub(float64(len(batch)))
	return batch
}

// run delivers what is in the queue, until the webhook was removed and the queue is empty.
func (s *Sender) run() {
	defer close(s.done)
	defer s.client.CloseIdleConnections()
	for {
		if batch := s.take(); len(batch) > 0 {
			s.deliver(batch)
			continue
		}
		select {
		case <-s.wake:
		case <-s.configured.Done():
			batch := s.takeLast()
			if len(batch) == 0 {
				return
			}
			s.deliver(batch)
		}
	}
}

// deliver posts a batch to the receiver, until the receiver accepts it or the batch is given up.
func (s *Sender) deliver(batch []Event) {
	counted := false
	defer guard.Recover(guard.Webhook, func() {
		if !counted {
			s.metrics.Lost.WithLabelValues(s.event).Add(float64(len(batch)))
		}
	})
	body, err := encode(s.event, batch)
	if err == nil {
		err = s.send(request{id: "msg_" + uuid.Must(uuid.NewV7()).String(), body: body, events: len(batch)})
	}
	counted = true
	switch {
	case err == nil:
		s.metrics.Delivered.WithLabelValues(s.event).Add(float64(len(batch)))
	case errors.Is(err, errTooLarge) && len(batch) > 1:
		s.logger().Warn("a webhook's request is too large for the receiver: smaller ones follow",
			zap.Int("announcements", len(batch)))
		half := len(batch) / 2
		s.deliver(batch[:half])
		s.deliver(batch[half:])
	default:
		s.metrics.Lost.WithLabelValues(s.event).Add(float64(len(batch)))
		s.logger().Error("a webhook failed: announcements are lost", zap.Error(err), zap.Int("lost", len(batch)))
	}
}

func (s *Sender) logger() *zap.Logger {
	settings := s.settings.Load()
	return settings.Logger().Named("webhook").With(zap.String("event", s.event), zap.String("host", settings.URL.Host))
}
