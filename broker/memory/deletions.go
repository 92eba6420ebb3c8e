package memory

import (
	"sync"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A deletionLog collects deletions and reports them in batches. Its zero value collects nothing.
type deletionLog struct {
	mu        sync.Mutex
	deletions []broker.Deletion
	report    func([]broker.Deletion)
}

// maxDeletionBatch is how many deletions one call reports at most.
const maxDeletionBatch = 10_000

// OnDeletions implements [broker.DeletionSource]. The Broker's goroutine calls report. While report runs, the Broker
// does not look for expired channels.
func (b *Broker) OnDeletions(report func([]broker.Deletion)) {
	b.deletions.mu.Lock()
	defer b.deletions.mu.Unlock()
	b.deletions.report = report
}

// FlushDeletions implements [broker.DeletionSource]. It returns without a report if the Broker's goroutine has ended.
func (b *Broker) FlushDeletions() {
	flushed := make(chan struct{})
	select {
	case b.flushes <- flushed:
		<-flushed
	case <-b.stopped:
	}
}

// add reports whether d is the first one in the log.
func (l *deletionLog) add(d broker.Deletion) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.report != nil {
		l.deletions = append(l.deletions, d)
	}
	return len(l.deletions) == 1
}

// flushIfMany flushes the log if it has a full batch.
func (l *deletionLog) flushIfMany() {
	l.mu.Lock()
	many := len(l.deletions) >= maxDeletionBatch
	l.mu.Unlock()
	if many {
		l.flush()
	}
}

// flush reports all deletions in the log and empties it.
func (l *deletionLog) flush() {
	l.mu.Lock()
	deletions, report := l.deletions, l.report
	l.deletions = nil
	l.mu.Unlock()
	for len(deletions) > 0 {
		batch := deletions[:min(len(deletions), maxDeletionBatch)]
		deletions = deletions[len(batch):]
		l.call(report, batch)
	}
}

// call calls report. If that panics, the next batches are reported all the same.
func (*deletionLog) call(report func([]broker.Deletion), batch []broker.Deletion) {
	defer guard.Recover(guard.Broker)
	report(batch)
}
