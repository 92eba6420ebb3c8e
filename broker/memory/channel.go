package memory

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/histogram"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// A channel is one channel of a [Broker]: the messages that it holds, the producers that wait for room, and its one
// reader. It knows neither HTTP nor Caddy.
//
// The lock mu guards every field below it. Code that holds it calls nothing outside the package that could wait or call
// back, and takes no other channel's lock.
type channel struct {
	broker             *Broker
	agent              string
	producer, consumer broker.Secret
	rare               *rare // what few channels have; may be nil. Its client never changes, and the lock guards the rest.
	place              int   // in the Broker's list
	counters           *counters
	created            time.Duration

	// expires is when the channel expires, on the Broker's clock. While the channel has a reader, it is the constant
	// never.
	expires atomic.Int64

	// sealed says that the channel takes no more messages, and is deleted once it holds none: see drain. It becomes
	// true only under the lock.
	sealed atomic.Bool

	tag uint32 // random: see id

	mu sync.Mutex
	// unconfirmed is how many messages, from the first of the queue, a read has brought that ended as EndUnconfirmed, or, if the
	// channel follows cursors, that ended. It has 32 bits, and stands here, so that a channel fits into one of Go's blocks of 256 bytes.
	unconfirmed uint32
	follows     bool // the channel follows cursors: a reader knew of them
	acks        bool // a reader has acknowledged
	knowsTopics bool // its consumer understands what only members of topics are sent

	closed   ending     // why it takes no more calls, if it does not
	first    membership // of the one topic that most members have; none if its topic is nil
	queue    queue
	held     waitList
	reader   *subscription
	lastRead time.Duration // on the Broker's clock; 0 if it was never read
	// settled is the newest message that was let go. A cursor that shows it leaves no gap.
	settled broker.EventID
	// letGoKeys has the keyed messages that were let go last. It is nil until the first one.
	letGoKeys  *keyWindow
	*journaled // nil without a journal
	// turn is the channel's place in the budget, while memory is what its first waiter waits for.
	turn *turn
}

func (c *channel) addresses() broker.Addresses {
	return broker.Addresses{
		Producer: broker.FormatAddress(c.agent, c.producer), Consumer: broker.FormatAddress(c.agent, c.consumer),
	}
}

const never = math.MaxInt64 // is when a channel with a reader expires

// publishNow takes a message, or drops it as a duplicate, if that needs no wait for room. It reports whether it did, and whether
// a reader waited for it. It returns the commit that makes the message durable.
func (c *channel) publishNow(m *broker.Message, l *broker.Limits) (ok, woken bool, commit *journal.Commit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed != open:
		return false, false, nil
	case c.isDuplicate(m):
		c.counters.duplicates.Add(1)
		return true, false, c.commit()
	case c.sealed.Load() || c.held.first != nil:
		return false, false, nil
	}
	waits := c.reader != nil && c.reader.next == c.queue.len
	if taken, _ := c.offer(m, l, nil, nil); !taken {
		return false, false, nil // publish will report the error, if there is one
	}
	return true, waits, c.commit()
}

// publish takes as many of w's messages as there is room for, and enqueues w if any are left. It reports whether w is
// finished. If it is, w.err says how: nil if the channel has all messages.
func (c *channel) publish(w *waiter) (finished bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != open {
		c.fail(w, c.closed.err())
		return true
	}
	c.dropDuplicates(w) // the channel has these already, so they need not wait
	if len(w.ms) == 0 {
		return true
	}
	if c.sealed.Load() {
		c.fail(w, broker.ErrNotFound)
		return true
	}
	if err := c.admitEnd(); err != nil && c.hasRoom(w.ms[0], &w.limits) {
		c.fail(w, err)
		return true
	}
	if c.held.first == nil {
		if all, err := c.admit(w); all || err != nil {
			c.fail(w, err)
			return true
		}
	}
	if w.limits.Hold <= 0 {
		w.err = c.refusal(w)
		return true
	}
	if !c.broker.budget.hasHeldRoom(w.limits.MaxMemory) {
		w.err = c.refuse(w, memoryFull)
		return true
	}
	c.enqueue(w)
	return false
}

// admit moves messages of w into the queue while there is room. It reports whether it has moved all of them. It fails if
// the journal does. The lock is held.
func (c *channel) admit(w *waiter) (all bool, err error) {
	for c.dropDuplicates(w); len(w.ms) > 0; c.dropDuplicates(w) {
		if taken, err := c.offerNext(w); !taken {
			return false, err
		}
		if w.waiting {
			c.counters.wait.Observe(histogram.Wait, c.broker.now()-w.since, 1)
		}
		c.accept(w)
	}
	return true, nil
}

// dropDuplicates drops messages from the front of w while they are duplicates. The lock is held.
func (c *channel) dropDuplicates(w *waiter) {
	for len(w.ms) > 0 && c.isDuplicate(w.ms[0]) {
		c.counters.duplicates.Add(1)
		c.accept(w)
	}
}

// accept marks the next message of w as accepted. The lock is held.
func (c *channel) accept(w *waiter) {
	if w.waiting {
		c.broker.budget.releaseHeld(w.ms[0])
	}
	w.ms = w.ms[1:]
	w.accepted++
	w.commit = c.commit()
}

// put appends a message and wakes the reader. If the journal fails, nothing happens. The lock is held.
func (c *channel) put(m *broker.Message, batch *journal.Batch) error {
	if c.broker.journal != nil {
		if err := c.journalPut(m, batch); err != nil {
			return err
		}
	}
	c.broker.budget.reserve(m)
	c.counters.accepted.Add(1)
	c.queue.push(m)
	c.noteMissed()
	if c.reader != nil && c.notDurable() == 0 {
		c.reader.wake()
	}
	return nil
}

// isDuplicate reports whether a message has the key of one that the channel holds, or has let go not long ago. The lock
// is held.
//
// A late duplicate has the id of an old message. If the channel took it, it would stand behind newer messages. A cursor
// or an acknowledgement that shows the old message would then settle the messages in between, which nobody has seen.
func (c *channel) isDuplicate(m *broker.Message) bool {
	return m.Keyed() && (c.letGoKeys.has(m.ID()) || c.queue.find(m.ID(), c.queue.len) >= 0)
}

// refusal counts the messages that w has left as refused, and returns the error for it: ErrMemoryLimit if memory is all
// that is missing, otherwise ErrTimeout. The lock is held.
func (c *channel) refusal(w *waiter) error {
	if c.hasPlace(w.ms[0], &w.limits) && !c.broker.budget.hasRoom(w.limits.MaxMemory) {
		return c.refuse(w, memoryFull)
	}
	return c.refuse(w, channelFull)
}

// refuse counts the messages that w has left as refused, and returns the error for it. The lock is held.
func (c *channel) refuse(w *waiter, reason noRoom) error {
	if w.topic == nil { // or else fail counts it as missed
		c.counters.refused[reason].Add(uint64(len(w.ms)))
	}
	if reason == memoryFull {
		return broker.ErrMemoryLimit
	}
	return broker.ErrTimeout
}

// enqueue appends w to the waiting producers. The lock is held.
func (c *channel) enqueue(w *waiter) {
	for _, m := range w.ms {
		c.broker.budget.reserveHeld(m)
	}
	c.broker.waiters.Add(1)
	w.since = c.broker.now()
	c.held.push(w)
	c.awaitMemory(false)
}

// dequeue removes w from the waiting producers and finishes it with err, which is nil if the channel has all messages
// of w. The lock is held.
func (c *channel) dequeue(w *waiter, err error) {
	for _, m := range w.ms {
		c.broker.budget.releaseHeld(m)
	}
	c.broker.waiters.Add(-1)
	c.held.remove(w)
	c.fail(w, err)
	w.tell()
}

// fail sets how w has ended, and counts the messages that it has left, unless refuse has counted them. The lock is held.
func (c *channel) fail(w *waiter, err error) {
	left := uint64(len(w.ms))
	switch w.err = err; {
	case w.topic != nil:
		if err != nil && !isGone(err) {
			c.miss()
		}
	case err == nil, errors.Is(err, broker.ErrTimeout), errors.Is(err, broker.ErrMemoryLimit), errors.Is(err, broker.ErrSkipped):
	case errors.Is(err, broker.ErrNotFound):
		c.counters.unroutable.Add(left)
	default:
		c.counters.withdrawn.Add(left)
	}
}

// awaitMemory makes the channel wait for its turn if memory is all that its first waiter lacks, and gives up the turn if
// there is no waiter any more. With first, the channel is the next one. The lock is held.
func (c *channel) awaitMemory(first bool) {
	w, budget := c.held.first, &c.broker.budget
	if c.turn != nil && (w == nil || w.limits.MaxMemory != c.turn.limit) {
		budget.leave(c.turn)
		c.turn = nil
	}
	if w != nil && !w.outside && c.turn == nil && c.hasPlace(w.ms[0], &w.limits) {
		c.turn = budget.enter(c, w.limits.MaxMemory, first)
	}
}

// withdraw finishes w with err, if it still waits, and reports whether w has failed. There are two exceptions. If all
// messages that w has left are duplicates, w has not failed. If err is ErrTimeout, w gets the error of refusal.
func (c *channel) withdraw(w *waiter, err error) (failed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !w.waiting {
		return w.err != nil
	}
	if c.dropDuplicates(w); len(w.ms) == 0 {
		err = nil // another call has written the same messages meanwhile
	}
	switch {
	case errors.Is(err, broker.ErrTimeout):
		err = c.refusal(w)
	case errors.Is(err, broker.ErrSkipped):
		_ = c.refuse(w, channelFull) // the line before it waited for the same room
	}
	first := c.held.first == w
	c.dequeue(w, err)
	if first {
		c.admitHeld() // the next waiter may have a larger buffer, from a newer configuration
	}
	return err != nil
}

// memoryFreed admits waiting producers, since it is the channel's turn. If they get nothing, because others have taken the
// memory meanwhile, the channel keeps its place.
func (c *channel) memoryFreed(t *turn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.turn != t {
		return // it has given up the turn meanwhile
	}
	c.turn = nil
	if w := c.held.first; w != nil && !c.hasRoom(w.ms[0], &w.limits) {
		c.awaitMemory(true)
		return
	}
	c.admitHeld()
}

// settle lets go of the oldest n messages as settled. All of them are in flight. The lock is held.
func (c *channel) settle(n int) {
	if n == 0 {
		return
	}
	c.counters.settled.Add(uint64(n)) //nolint:gosec // not negative
	c.letGo(n)
}

// letGo removes the oldest n messages. All of them are in flight. The lock is held.
func (c *channel) letGo(n int) {
	for range n {
		m := c.queue.popInFlight()
		c.settled = m.ID()
		if m.Keyed() {
			c.rememberKey(m.ID())
		}
		c.noteLetGo(m)
		c.broker.budget.release(m)
	}
	c.unconfirmed -= min(c.unconfirmed, uint32(n)) //nolint:gosec // no channel holds so many
	c.marks().shift(n)
	if c.reader != nil {
		c.reader.shift(n)
	}
}

// rememberKey remembers a keyed message that is let go. The lock is held.
func (c *channel) rememberKey(id broker.EventID) {
	if c.letGoKeys == nil {
		c.letGoKeys = new(keyWindow)
	}
	c.letGoKeys.add(id)
}

// A cause says who has closed a channel.
type cause uint8

const (
	byItself cause = iota
	asked          // a call has asked for it
	drained        // a drain, which closes only channels that hold nothing
)

// close closes the channel: it ends the reader's subscription and the waiting producers with c.closed, lets go of all
// messages, and returns how many those were. It returns false if the channel is closed already. With EndExpired, it
// also returns false if the channel has a reader or is not expired, and for a drain if it is not empty. It fails only if a call has
// asked for it and the journal fails; then nothing happens.
func (c *channel) close(reason broker.EndReason, why cause) (undelivered int, ok bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed != open, why == drained && !c.isEmpty(),
		reason == broker.EndExpired && (c.reader != nil || !c.expired(c.broker.now())):
		return 0, false, nil // closed already, or something has come meanwhile
	case reason != broker.EndClosed:
		if err := c.forget(why == asked); err != nil {
			return 0, false, err
		}
	default:
		c.journalMisses()
	}
	c.closed = deleted
	if reason == broker.EndClosed {
		c.closed = withBroker
	}
	for w := c.held.first; w != nil; w = c.held.first {
		c.dequeue(w, c.closed.err())
	}
	c.awaitMemory(false)
	if c.reader != nil {
		c.reader.finish(c.closed.err())
		c.reader = nil
		c.readerChanged(-1)
		c.broker.readers.Add(-1)
	}
	c.counters.deleted[reason].Add(1)
	c.counters.life.Observe(histogram.Life, max(0, c.broker.now()-c.created), 1)
	c.counters.undelivered[reason].inFlight.Add(uint64(c.queue.inFlight)) //nolint:gosec // not negative
	c.counters.undelivered[reason].pending.Add(uint64(c.queue.pending())) //nolint:gosec // not negative
	undelivered = c.queue.len
	c.queue.inFlight = undelivered
	c.letGo(undelivered)
	c.queue, c.letGoKeys = queue{}, nil
	c.leaveAll()
	return undelivered, true, nil
}

// expired reports whether nobody has read the channel for too long.
func (c *channel) expired(now time.Duration) bool { return c.expires.Load() <= int64(now) }
