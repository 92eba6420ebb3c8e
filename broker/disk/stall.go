package disk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A disk may answer late, or never: a call of the system then hangs, and nothing can end it. So nobody waits for the disk without a
// limit who holds a lock or has somebody waiting.

// stallTime is how long the disk may take to do something. After that, whoever waits for it has been told that the outcome is not
// known, and the log refuses what would wait for it, too.
const stallTime = journal.MaxCommit

// maxClose is how long Close waits for the disk.
const maxClose = 2 * time.Second

// errStalled says that the disk does not answer.
var errStalled = errors.New("the disk does not answer")

// A lock is a mutex that is held while the disk works, so perhaps for ever.
type lock chan struct{}

func (l lock) Lock()   { l <- struct{}{} }
func (l lock) Unlock() { <-l }

// watched calls f, in which the disk works. If that takes too long, watched reports it, and calls stalls with the lock held.
func (l *log) watched(what string, stalls func(), f func() error) error {
	begun := time.Now()
	timer := time.AfterFunc(stallTime, func() {
		defer guard.Recover(guard.Broker)
		l.report(event{problem: fmt.Errorf("%s: %w for %v", what, errStalled, stallTime)})
		l.locked(stalls)
	})
	defer func() {
		if !timer.Stop() {
			l.report(event{answered: what, took: time.Since(begun)})
		}
	}()
	return f()
}

// syncStalls refuses what would wait for the disk. The lock is held.
func (l *log) syncStalls() { l.stalled.Store(l.inSync) }

// prepareStalls refuses what needs another segment: it would wait with the locks of channels held. The lock is held.
func (l *log) prepareStalls() {
	if l.preparing {
		l.nextErr = errStalled
		l.prepared.Broadcast()
	}
}

// stallsNow returns an error if nothing that is written now becomes durable soon, though it has to.
func (l *log) stallsNow() error {
	if l.stalled.Load() && l.Waits() {
		return errStalled
	}
	return nil
}

// await calls f, and returns at the end of ctx and after halt even if f does not.
func (l *log) await(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	guard.Go(guard.Broker, func() { done <- f() }, func() { done <- errPanicked })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-l.stop:
		return errClosed
	}
}

// abandon tells everybody who waits for the disk that the outcome is not known.
func (l *log) abandon() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, commit := range []*journal.Commit{l.commit, l.syncs, l.owed} {
		finish(commit, nil, errStalled)
	}
}
