package redis

import (
	"context"
	"fmt"
	"sync"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A barrier waits until everything that was written before is as safe as the options ask for. Calls that come at once share a
// wait.
type barrier struct {
	broker *Broker
	scope  int

	mu   sync.Mutex
	next *barrierWait // not begun
	busy bool
}

type barrierWait struct {
	done chan struct{}
	err  error
}

// pass waits. Its error tells that it is not known whether what was written is safe.
func (r *barrier) pass() error {
	r.mu.Lock()
	if r.next == nil {
		r.next = &barrierWait{done: make(chan struct{})}
	}
	w := r.next
	if !r.busy {
		r.busy = true
		go r.work()
	}
	r.mu.Unlock()
	<-w.done
	return w.err
}

func (r *barrier) work() {
	for {
		r.mu.Lock()
		w := r.next
		if r.next = nil; w == nil {
			r.busy = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		w.wait(r.broker, r.scope)
	}
}

func (w *barrierWait) wait(b *Broker, scope int) {
	defer close(w.done)
	defer guard.Recover(guard.Broker, func() { w.err = errPanicked })
	ctx, cancel := context.WithTimeout(b.background, b.options.Timeout)
	defer cancel()
	reply, err := b.runDurably(ctx, touchScript, scriptCall{keys: []string{b.keys.counters(scope)}})
	if w.err = err; err == nil && reply.Error() != nil {
		w.err = fmt.Errorf("%w: redis: %w", broker.ErrOutcomeUnknown, reply.Error()) // what waited has been written
	}
}
