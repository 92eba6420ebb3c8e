package memory

import (
	"github.com/caddy-megaphone/megaphone/broker"
	"sync"
)

// deletionLog collects deletions and tells of them in batches. Its zero value tells nobody.
type deletionLog struct {
	mu        sync.Mutex
	deletions []broker.Deletion
	report    func([]broker.Deletion)
}

// maxDeletionBatch is how many deletions are told at once.
const maxDeletionBatch = 10_000

// OnDeletions has the registry call tell for what is deleted from now on: about once each second, if there is
// anything to tell, and when the registry is closed. Calls come one after the other, from the registry's goroutine,
// and should not take long: no channel expires meanwhile. The slice is tell's to keep, and has at most 10,000
// deletions. What the closing of the registry deletes is not told.
func (r *Broker) OnDeletions(tell func([]broker.Deletion)) {
	r.deletions.mu.Lock()
	defer r.deletions.mu.Unlock()
	r.deletions.report = tell
}

// FlushDeletions has what was deleted until now told at once, and waits for that.
func (r *Broker) FlushDeletions() {
	told := make(chan struct{})
	select {
	case r.flushes <- told:
		<-told
	case <-r.stopped:
	}
}

func (n *deletionLog) add(d broker.Deletion) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.report != nil {
		n.deletions = append(n.deletions, d)
	}
}

// flushIfMany tells what there is if it is a full batch.
func (n *deletionLog) flushIfMany() {
	n.mu.Lock()
	many := len(n.deletions) >= maxDeletionBatch
	n.mu.Unlock()
	if many {
		n.flush()
	}
}

// flush tells what there is.
func (n *deletionLog) flush() {
	n.mu.Lock()
	deletions, tell := n.deletions, n.report
	n.deletions = nil
	n.mu.Unlock()
	for len(deletions) > 0 {
		batch := deletions[:min(len(deletions), maxDeletionBatch)]
		deletions = deletions[len(batch):]
		tell(batch)
	}
}
