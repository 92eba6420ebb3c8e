package memory

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A waiter is what one producer writes to one channel. While the channel has no room for all of it, the waiter is in
// the channel's waitList. The channel's lock guards it until it is finished.
type waiter struct {
	channel  *channel
	ms       []*broker.Message // what the channel has not taken yet
	limits   broker.Limits
	accepted int
	err      error
	batches  []journal.Batch // one for each of the messages; nil if the journal needs none
	joins    []join          // the same, for those that are appended
	commit   *journal.Commit // makes the last accepted message durable

	topic   *topic // whose message it is; nil if a producer writes to the channel. Such a waiter has one message.
	outside bool   // it is the end of the topic: it needs no room, and waits only for those before it

	owner      owner
	waiting    bool          // it is in the waitList
	since      time.Duration // when it entered the waitList, on the Broker's clock
	prev, next *waiter
}

// offerNext offers the next message of w to the channel. It reports whether the channel has taken it. The lock is held.
func (c *channel) offerNext(w *waiter) (taken bool, err error) {
	if w.outside {
		if err = c.putOutside(w.ms[0], &w.limits, w.batch()); err == nil {
			c.journalEndComes(w)
		}
		return err == nil, err
	}
	return c.offer(w.ms[0], &w.limits, w.batch(), w.join())
}

// admitHeld admits waiting producers while there is room, first come first served. The lock is held.
func (c *channel) admitHeld() { _ = c.tryHeld() }

// tryHeld is admitHeld. It fails if the end of a topic comes next and the journal fails. That was promised, so it is tried again
// later, and nothing overtakes it. The lock is held.
func (c *channel) tryHeld() (failed error) {
	for finished := true; finished && c.held.first != nil; {
		if finished, failed = c.admitFirst(); failed != nil {
			c.failBehind(c.held.first, failed)
		}
	}
	c.awaitMemory(false)
	return failed
}

// admitFirst admits the first waiting producer, and reports whether that has finished it. It fails like tryHeld. The lock is held.
func (c *channel) admitFirst() (finished bool, failed error) {
	w := c.held.first
	all, err := c.admit(w)
	switch {
	case !all && err == nil:
		return false, nil
	case err != nil && w.outside:
		c.broker.journal.Retry(c.journalID())
		return false, err
	}
	c.dequeue(w, err)
	return true, nil
}

// failBehind finishes the producers behind the end of a topic that the journal does not take, while there is room for them: without
// that end, the journal would refuse what they write. The lock is held.
func (c *channel) failBehind(end *waiter, err error) {
	for w := end.next; w != nil; {
		next := w.next
		if !w.outside {
			if c.dropDuplicates(w); len(w.ms) == 0 {
				c.dequeue(w, nil)
			} else if c.hasRoom(w.ms[0], &w.limits) {
				c.dequeue(w, err)
			} else {
				return
			}
		}
		w = next
	}
}

// admitEnd tries the end of a topic that comes next once more, and what waits behind it. The end waits only for the journal, for it
// needs no room. admitEnd fails if the journal does. The lock is held.
func (c *channel) admitEnd() error {
	if w := c.held.first; w == nil || !w.outside {
		return nil
	}
	return c.tryHeld()
}

// A waitList is a channel's waiting producers, first come first. Its zero value is empty.
type waitList struct {
	first, last *waiter
}

// len counts the waiters one by one: a counter would make every channel larger, for a number that only operators ask for.
func (l *waitList) len() (n int) {
	for w := l.first; w != nil; w = w.next {
		n++
	}
	return n
}

func (l *waitList) push(w *waiter) {
	w.waiting, w.prev = true, l.last
	if l.last == nil {
		l.first = w
	} else {
		l.last.next = w
	}
	l.last = w
}

func (l *waitList) remove(w *waiter) {
	if w.prev == nil {
		l.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.waiting, w.prev, w.next = false, nil, nil
}

// any reports whether f is true for one of them.
func (l *waitList) any(f func(*waiter) bool) bool {
	for w := l.first; w != nil; w = w.next {
		if f(w) {
			return true
		}
	}
	return false
}

// An owner waits for its waiters. When a waiter leaves its waitList, the channel calls finished, with its lock held. If
// the waiter never entered the waitList, the code that published it calls finished, without the lock.
type owner interface{ finished() }

// tell tells the owner that w has left its waitList. If the owner panics, the channel goes on.
func (w *waiter) tell() {
	defer guard.Recover(guard.Broker)
	w.owner.finished()
}

// A waitGroup is the owner of one call's waiters, one for each channel.
type waitGroup struct {
	remaining atomic.Int32  // waiters that are not finished
	done      chan struct{} // is closed when remaining becomes zero
}

// finished implements [owner].
func (g *waitGroup) finished() {
	if g.remaining.Add(-1) == 0 {
		close(g.done)
	}
}

// wait waits until all waiters are finished. If the hold time or ctx ends before, it returns the error with which the caller must
// withdraw them.
func (g *waitGroup) wait(ctx context.Context, hold time.Duration) error {
	select {
	case <-g.done:
		return nil
	default:
	}
	timer := time.NewTimer(hold)
	defer timer.Stop()
	select {
	case <-g.done:
		return nil
	case <-timer.C:
		return broker.ErrTimeout
	case <-ctx.Done():
		return ctx.Err()
	}
}
