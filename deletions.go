package megaphone

import (
	"sync"

	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/internal/warning"
	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

// A deletionQueue has the deletions that wait for handlers of Caddy's event: these may take their time, and the
// registry's goroutine has none. All configurations share it, so what waits when one is replaced goes to the next.
type deletionQueue struct {
	mu      sync.Mutex
	batches []deletionBatch
	waiting int           // deletions in them
	wake    chan struct{} // receives a value when there are batches
	done    chan struct{} // closed when none will be taken any more
	full    warning.Limiter
	app     *App // that was told last that the queue is full
}

// A deletionBatch is some deletions, or a mark that tells how far the handlers are.
type deletionBatch struct {
	app     *App // the one that announced at that time
	notices []webhook.Event
	reached chan<- struct{} // of a mark: is closed
}

// maxDeletions is how many deletions wait at most.
const maxDeletions = 1_000_000

func (q *deletionQueue) add(batch deletionBatch) {
	q.mu.Lock()
	room := q.waiting+len(batch.notices) <= maxDeletions
	if room {
		q.batches = append(q.batches, batch)
		q.waiting += len(batch.notices)
	} else {
		q.app = batch.app
	}
	q.mu.Unlock()
	if !room {
		q.tellLost(batch.app, q.full.Due(len(batch.notices)))
		return
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// tellLost logs how many deletions found the queue full, if there are any.
func (q *deletionQueue) tellLost(a *App, lost int64) {
	if lost > 0 {
		loadedLogger(a.logger).Warn("handlers of the event megaphone.channel_deleted are too slow: events are lost", zap.Int64("lost", lost))
	}
}

// tellRest logs those of which no line tells yet, when there is room again.
func (q *deletionQueue) tellRest() {
	q.mu.Lock()
	a := q.app
	q.mu.Unlock()
	q.tellLost(a, q.full.Rest())
}

// take removes what is in the queue first.
func (q *deletionQueue) take() (batch deletionBatch, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.batches) == 0 {
		q.batches = nil // its memory is free
		return deletionBatch{}, false
	}
	batch, q.batches[0] = q.batches[0], deletionBatch{}
	q.batches = q.batches[1:]
	q.waiting -= len(batch.notices)
	return batch, true
}

// mark returns a channel that is closed when handlers were told of what is in the queue now.
func (q *deletionQueue) mark() <-chan struct{} {
	reached := make(chan struct{})
	q.add(deletionBatch{reached: reached})
	return reached
}

// emitDeletions runs handlers for what comes into the queue. It ends when all is closed and the queue is empty.
func (s *registry) emitDeletions() {
	q := &s.deletions
	defer close(q.done)
	for {
		batch, ok := q.take()
		if ok {
			s.emitBatch(batch)
			continue
		}
		q.tellRest()
		select {
		case <-q.wake:
		case <-s.closing.Done():
			if batch, ok = q.take(); !ok {
				return
			}
			s.emitBatch(batch)
		}
	}
}

func (s *registry) emitBatch(batch deletionBatch) {
	if batch.reached != nil {
		close(batch.reached)
		return
	}
	lost := 0
	for i := range batch.notices {
		if !s.emit(webhook.ChannelDeleted, &batch.notices[i], batch.app, (*App).emitApart) {
			lost++
		}
	}
	if lost > 0 {
		loadedLogger(batch.app.logger).Warn("handlers of the event megaphone.channel_deleted are not configured any more: events are lost",
			zap.Int("lost", lost))
	}
}
