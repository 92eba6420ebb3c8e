package megaphone

import (
	"sync"

	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/warning"
	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

// A deletionQueue holds the deletions that wait for handlers of Caddy's event channel_deleted. Such handlers may be
// slow, and the Broker that reports deletions must not wait for them. All configurations share the queue. When one is
// replaced, the next one gets the deletions that wait.
type deletionQueue struct {
	mu      sync.Mutex
	batches []eventBatch
	waiting int           // deletions in batches
	wake    chan struct{} // receives a value when there are batches
	done    chan struct{} // closed when nobody takes batches any more
	full    warning.Limiter
	app     *App // whose deletions were the last to find the queue full
}

// An eventBatch is either some deletions, or a mark that shows how far the handlers have come.
type eventBatch struct {
	app     *App // the one that was active when the channels were deleted
	events  []webhook.Event
	reached chan<- struct{} // of a mark: closed when the handlers have come this far
}

// maxDeletions is how many deletions wait at most.
const maxDeletions = 1_000_000

// add appends a batch. If there is no room for it, its deletions are lost, and add logs that now and then.
func (q *deletionQueue) add(batch eventBatch) {
	q.mu.Lock()
	room := q.waiting+len(batch.events) <= maxDeletions
	if room {
		q.batches = append(q.batches, batch)
		q.waiting += len(batch.events)
	} else {
		q.app = batch.app
	}
	q.mu.Unlock()
	if !room {
		q.logLost(batch.app, q.full.Due(len(batch.events)))
		return
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// logLost logs how many deletions found the queue full, if any did.
func (q *deletionQueue) logLost(a *App, lost int64) {
	if lost > 0 {
		loadedLogger(a.logger).Warn("handlers of the event megaphone.channel_deleted are too slow: events are lost", zap.Int64("lost", lost))
	}
}

// logRest logs the lost deletions that are in no log line yet. Call it when there is room again.
func (q *deletionQueue) logRest() {
	q.mu.Lock()
	a := q.app
	q.mu.Unlock()
	q.logLost(a, q.full.Rest())
}

// take removes the first batch. It reports false if there is none.
func (q *deletionQueue) take() (batch eventBatch, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.batches) == 0 {
		q.batches = nil // frees its memory
		return eventBatch{}, false
	}
	batch, q.batches[0] = q.batches[0], eventBatch{}
	q.batches = q.batches[1:]
	q.waiting -= len(batch.events)
	return batch, true
}

// mark returns a channel that is closed when the handlers are done with everything that is in the queue now.
func (q *deletionQueue) mark() <-chan struct{} {
	reached := make(chan struct{})
	q.add(eventBatch{reached: reached})
	return reached
}

// emitDeletions runs handlers for the deletions in the queue. It returns when the registry is closed and the queue is
// empty.
func (s *registry) emitDeletions() {
	defer close(s.deletions.done)
	for s.emitNext() {
	}
}

// emitNext runs handlers for the next batch, or waits for one. It reports false when there will be none. A panic, which may
// be that of a log, does not keep it from the next batch.
func (s *registry) emitNext() (more bool) {
	defer guard.Recover(guard.Event)
	more = true
	q := &s.deletions
	batch, ok := q.take()
	if ok {
		s.emitBatch(batch)
		return more
	}
	q.logRest()
	select {
	case <-q.wake:
	case <-s.closing.Done():
		if batch, ok = q.take(); !ok {
			return false
		}
		s.emitBatch(batch)
	}
	return more
}

// emitBatch runs handlers for a batch, or closes the channel of a mark.
func (s *registry) emitBatch(batch eventBatch) {
	if batch.reached != nil {
		close(batch.reached)
		return
	}
	lost := 0
	for i := range batch.events {
		if !s.emit(webhook.ChannelDeleted, &batch.events[i], batch.app, (*App).emitOrAbandon) {
			lost++
		}
	}
	if lost > 0 {
		loadedLogger(batch.app.logger).Warn("handlers of the event megaphone.channel_deleted are not configured any more: events are lost",
			zap.Int("lost", lost))
	}
}
