package megaphone

import "sync"

// A Deletion is a channel that was deleted, by age or by a call.
type Deletion struct {
	agent    string
	consumer secret

	// Undelivered is how many messages it held.
	Undelivered int
	Reason      EndReason
}

// Consumer returns the consumer address that the channel had.
func (d Deletion) Consumer() string { return formatAddress(d.agent, d.consumer) }

// notices collects deletions and tells of them in batches. Its zero value tells nobody.
type notices struct {
	mu        sync.Mutex
	deletions []Deletion
	tell      func([]Deletion)
}

// maxNotices is how many deletions are told at once.
const maxNotices = 10_000

// OnDeletions has the registry call tell for what is deleted from now on: about once each second, if there is
// anything to tell, and when the registry is closed. Calls come one after the other, from the registry's goroutine,
// and should not take long: no channel expires meanwhile. The slice is tell's to keep, and has at most 10,000
// deletions. What the closing of the registry deletes is not told.
func (r *Registry) OnDeletions(tell func([]Deletion)) {
	r.notices.mu.Lock()
	defer r.notices.mu.Unlock()
	r.notices.tell = tell
}

// tellDeletions has what was deleted until now told at once, and waits for that.
func (r *Registry) tellDeletions() {
	told := make(chan struct{})
	select {
	case r.tell <- told:
		<-told
	case <-r.stopped:
	}
}

func (n *notices) add(d Deletion) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.tell != nil {
		n.deletions = append(n.deletions, d)
	}
}

// flushIfMany tells what there is if it is a full batch.
func (n *notices) flushIfMany() {
	n.mu.Lock()
	many := len(n.deletions) >= maxNotices
	n.mu.Unlock()
	if many {
		n.flush()
	}
}

// flush tells what there is.
func (n *notices) flush() {
	n.mu.Lock()
	deletions, tell := n.deletions, n.tell
	n.deletions = nil
	n.mu.Unlock()
	for len(deletions) > 0 {
		batch := deletions[:min(len(deletions), maxNotices)]
		deletions = deletions[len(batch):]
		tell(batch)
	}
}
