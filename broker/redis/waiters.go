package redis

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// shortHold is how long a call that must not wait does wait if the reader may have taken more than its node has reported.
const shortHold = 100 * time.Millisecond

// A note tells what became of a call that waited for room.
type note struct {
	status               byte // one of the constants below
	accepted, duplicates int
	replaced, appended   int // of those that are accepted
}

// Statuses of notes: see admit in lua/channel.lua, and lua/remove.lua.
const (
	noteTaken    = 0
	noteTooLate  = 3
	noteNotFound = 4
	noteLost     = 255 // no note of Redis: what became of the call is not known
)

// waiters are the calls of this node that wait for room.
type waiters struct {
	last atomic.Uint64

	mu   sync.Mutex
	all  map[uint64]*waiter
	lost map[uint64]note // notes that came before their calls were registered
	// alone are ends of topics, for which no call waits. counts gets what becomes of each.
	alone  map[uint64]*item
	counts func(*item, note)
}

// A waiter is a call that waits for room.
type waiter struct {
	item  *item
	notes chan note
}

// maxLost is how many notes are kept for calls that are not registered yet.
const maxLost = 10_000

func (w *waiters) number() uint64 { return w.last.Add(1) & (1<<48 - 1) }

// numbers returns the first of so many numbers.
func (w *waiters) numbers(count uint64) uint64 { return (w.last.Add(count) - count + 1) & (1<<48 - 1) }

// count returns how many calls wait.
func (w *waiters) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.all)
}

// add registers a call that waits.
func (w *waiters) add(it *item) *waiter {
	w.mu.Lock()
	defer w.mu.Unlock()
	call := &waiter{it, make(chan note, 1)}
	w.all[it.number] = call
	if n, ok := w.lost[it.number]; ok {
		delete(w.lost, it.number)
		w.give(call, n)
	}
	return call
}

// addAlone registers an end for which no call waits.
func (w *waiters) addAlone(it *item) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n, ok := w.lost[it.number]; ok {
		delete(w.lost, it.number)
		w.counts(it, n)
		return
	}
	if len(w.alone) >= maxLost {
		clear(w.alone) // their channels were deleted long ago
	}
	w.alone[it.number] = it
}

func (w *waiters) remove(call *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, call.item.number)
}

// tell gives a note to its call.
func (w *waiters) tell(number uint64, n note) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if call, ok := w.all[number]; ok {
		w.give(call, n)
		return
	}
	if it, ok := w.alone[number]; ok {
		delete(w.alone, number)
		w.counts(it, n)
		return
	}
	if len(w.lost) >= maxLost {
		clear(w.lost) // nobody has asked for them
	}
	w.lost[number] = n
}

// give gives a note to a call. The lock is held.
func (w *waiters) give(call *waiter, n note) {
	select {
	case call.notes <- n:
	default:
	}
}

func (w *waiters) snapshot() []*waiter {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]*waiter, 0, len(w.all))
	for _, call := range w.all {
		all = append(all, call)
	}
	return all
}

// outcomes waits for items that are held, and tells what became of all.
func (b *Broker) outcomes(ctx context.Context, items []*item) []broker.Outcome {
	outcomes := make([]broker.Outcome, len(items))
	held := make([]*waiter, len(items))
	for i, it := range items {
		if it.err == nil && it.status == itemHeld {
			held[i] = b.waiters.add(it)
		}
	}
	w := wait{ctx: ctx}
	defer w.stop()
	var late []withdrawal
	for i, it := range items {
		if held[i] == nil {
			outcomes[i] = broker.Outcome{Accepted: it.accepted, Err: b.refusal(it)}
		} else if n, err := b.awaitNote(&w, held[i]); err != nil {
			late = append(late, withdrawal{held[i], err, &outcomes[i]})
		} else {
			outcomes[i] = b.noted(it, n)
		}
	}
	b.withdrawAll(late)
	for _, call := range held {
		if call != nil {
			b.waiters.remove(call)
		}
	}
	return outcomes
}

// refusal returns the error of an item that is not held, and counts what was refused.
func (b *Broker) refusal(it *item) error {
	if it.err != nil {
		return it.err
	}
	left := uint64(len(it.ms) - it.accepted) //nolint:gosec // not negative
	switch it.status {
	case itemFull:
		b.stats.refusedFull.Add(left)
		return broker.ErrTimeout
	case itemNoMemory:
		b.stats.refusedMemory.Add(left)
		return broker.ErrMemoryLimit
	case itemNotFound:
		b.stats.unroutable.Add(left)
		return broker.ErrNotFound
	case itemTaken, itemHeld:
	}
	return nil
}

// A wait has one timer for several calls.
type wait struct {
	ctx   context.Context //nolint:containedctx // of one call
	timer *time.Timer
	over  error // why the wait has ended
}

func (w *wait) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// awaitNote waits for the note of a call. It fails when the time of the call is over, or with the reason why the wait has ended.
func (b *Broker) awaitNote(w *wait, call *waiter) (note, error) {
	if w.over == nil {
		left := time.Until(call.item.begun.Add(call.item.hold()))
		if w.timer == nil {
			w.timer = time.NewTimer(left)
		} else {
			w.timer.Reset(left)
		}
		select {
		case n := <-call.notes:
			return n, nil
		case <-w.ctx.Done():
			w.over = w.ctx.Err()
		case <-b.closing:
			w.over = broker.ErrClosed
		case <-w.timer.C:
			return note{}, broker.ErrTimeout
		}
	}
	return note{}, w.over
}

// hold returns how long an item that is held may wait.
func (it *item) hold() time.Duration { return max(it.limits.Hold, shortHold) }

// noted turns a note into an outcome.
func (b *Broker) noted(it *item, n note) broker.Outcome {
	if err := b.countNoted(it, n); err != nil {
		return broker.Outcome{Accepted: it.accepted, Err: err}
	}
	outcome := broker.Outcome{Accepted: it.accepted + n.accepted}
	switch n.status {
	case noteLost:
		outcome.Err = broker.ErrOutcomeUnknown
	case noteNotFound:
		outcome.Err = b.lost(it, outcome.Accepted)
	case noteTooLate:
		outcome.Err = broker.ErrTimeout
		b.stats.refusedFull.Add(uint64(len(it.ms) - outcome.Accepted)) //nolint:gosec // not negative
	}
	return outcome
}

// lost returns the error for the rest of an item whose channel was deleted, and counts it.
func (b *Broker) lost(it *item, accepted int) error {
	b.stats.unroutable.Add(uint64(len(it.ms) - accepted)) //nolint:gosec // not negative
	return b.gone()
}

// gone is the error for a channel that is not there.
func (b *Broker) gone() error {
	if b.isClosed() {
		return broker.ErrClosed
	}
	return broker.ErrNotFound
}
