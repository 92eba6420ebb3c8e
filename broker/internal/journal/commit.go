package journal

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A Commit becomes durable as a whole.
type Commit struct {
	done  chan struct{}
	err   error
	timer *time.Timer

	mu       sync.Mutex
	finished bool
	waits    []broker.Continuation
}

// MaxCommit is how long a commit takes at most. Then nobody knows what became of it.
const MaxCommit = 10 * time.Second

// NewCommit returns a commit that is not durable yet. If it is not finished in time, it finishes with
// [broker.ErrOutcomeUnknown].
func NewCommit() *Commit {
	c := &Commit{done: make(chan struct{})}
	c.timer = time.AfterFunc(MaxCommit, func() { c.Finish(broker.ErrOutcomeUnknown) })
	return c
}

// Finish tells that the commit is durable or, if err is not nil, that it may never be. Only the first call counts. Locks may
// be held: those who wait are told on other goroutines.
func (c *Commit) Finish(err error) {
	c.timer.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.finished {
		return
	}
	c.finished, c.err = true, err
	close(c.done)
	for waits := range slices.Chunk(c.waits, maxTold) {
		go tell(waits, err)
	}
	c.waits = nil
}

// maxTold is how many continuations a goroutine tells. Each may take some 10 µs, so the last one waits for a third of a
// millisecond.
const maxTold = 32

func tell(waits []broker.Continuation, err error) {
	for _, w := range waits {
		func() {
			defer guard.Recover(guard.Broker)
			w.Published(err)
		}()
	}
}

// Then tells w when the commit is finished. The commit may be nil: nothing is to be waited for. Then may tell w before it
// returns, so no lock may be held.
func (c *Commit) Then(w broker.Continuation) {
	if c == nil {
		w.Published(nil)
	} else if !c.append(w) {
		w.Published(c.err)
	}
}

// append appends w to those who are told, unless the commit is finished.
func (c *Commit) append(w broker.Continuation) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.finished {
		c.waits = append(c.waits, w)
	}
	return !c.finished
}

// IsDurable reports whether the commit is durable.
func (c *Commit) IsDurable() bool {
	select {
	case <-c.done:
		return c.err == nil
	default:
		return false
	}
}

// Wait waits until the commit is durable. It fails with [broker.ErrOutcomeUnknown] if that does not happen in time. The
// commit may be nil.
func (c *Commit) Wait(ctx context.Context) error {
	if c == nil {
		return nil
	}
	select {
	case <-c.done:
		return c.err
	default:
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return broker.ErrOutcomeUnknown
	}
}
