package memory

import (
	"errors"
	"github.com/caddy-megaphone/megaphone/broker"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// A channel is one mailbox of a [Broker]: what it holds, the producers that wait for room, and its one reader.
// It knows neither HTTP nor Caddy.
//
// Everything below mu is guarded by it. Nothing is called out to, and no other channel's lock is taken, while
// it is held.
type channel struct {
	registry           *Broker
	agent              string
	producer, consumer broker.Secret
	client             string // whose quota it takes; may be empty
	place              int    // in the registry's list
	tag                uint32 // random: see id
	counters           *counters
	created            time.Duration

	// expires is when the channel dies, on the registry's clock; never while it has a reader.
	expires atomic.Int64

	// sealed tells that the channel takes no more messages, and is deleted once it holds none: see drain. It is
	// set under the lock.
	sealed atomic.Bool

	mu       sync.Mutex
	closed   error // why it takes no more calls: ErrNotFound once it is deleted, or ErrClosed
	queue    queue
	held     waitList
	reader   *subscription
	lastRead time.Duration // on the registry's clock; 0 when it was never read
	// settled is the newest message that was let go: a cursor that shows it is still good.
	settled broker.EventID
	// letGoKeys has the keyed messages that were let go last; nil before the first of them.
	letGoKeys *keyWindow
	follows   bool // it was read by a reader that knows of cursors
	acks      bool // a reader has acknowledged
	// awaitsMemory tells that the registry has it in its list of channels to look at when memory is freed.
	awaitsMemory bool
}

func (c *channel) addresses() broker.Addresses {
	return broker.Addresses{
		Producer: broker.FormatAddress(c.agent, c.producer), Consumer: broker.FormatAddress(c.agent, c.consumer),
	}
}

// never is the time at which a channel with a reader expires.
const never = math.MaxInt64

// publishNow takes a message, or drops it as a repeat, if that needs no wait. It reports whether it did.
func (c *channel) publishNow(m *broker.Message, l broker.Limits) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed != nil:
		return false
	case c.isDuplicate(m):
		c.counters.duplicates.Add(1)
		return true
	case c.sealed.Load() || c.held.first != nil || !c.hasRoom(&l):
		return false
	}
	c.put(m)
	return true
}

// publish takes the messages that p still has to publish, as far as there is room, and keeps p in line for the
// rest. It reports whether p is done, by success or by an error.
func (c *channel) publish(p *waiter) (done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		p.err = c.closed
		return true
	}
	c.dropDuplicates(p) // which have their place already, and need not wait for another
	if len(p.ms) == 0 {
		return true
	}
	if c.sealed.Load() {
		p.err = broker.ErrNotFound
		return true
	}
	if c.held.first == nil && c.admit(p) {
		return true
	}
	if p.limits.Hold <= 0 {
		p.err = c.refusal(p)
		return true
	}
	if !c.registry.budget.hasHeldRoom(p.limits.MaxMemory) {
		p.err = c.refuse(p, memoryFull)
		return true
	}
	c.enqueue(p)
	return false
}

// admit moves messages of p into the queue as far as there is room, and reports whether p is done. The lock is held.
func (c *channel) admit(p *waiter) (done bool) {
	for c.dropDuplicates(p); len(p.ms) > 0; c.dropDuplicates(p) {
		if !c.hasRoom(&p.limits) {
			return false
		}
		c.put(p.ms[0])
		if p.waiting {
			c.counters.wait.observe(waitBounds, c.registry.now()-p.since, 1)
		}
		c.accept(p)
	}
	return true
}

// dropDuplicates drops the next messages of p that the channel has already. The lock is held.
func (c *channel) dropDuplicates(p *waiter) {
	for len(p.ms) > 0 && c.isDuplicate(p.ms[0]) {
		c.counters.duplicates.Add(1)
		c.accept(p)
	}
}

// accept notes that the next message of p is taken. The lock is held.
func (c *channel) accept(p *waiter) {
	if p.waiting {
		c.registry.budget.releaseHeld(p.ms[0])
	}
	p.ms = p.ms[1:]
	p.accepted++
}

// put appends a message and wakes the reader. The lock is held.
func (c *channel) put(m *broker.Message) {
	c.registry.budget.reserve(m)
	c.counters.accepted.Add(1)
	c.queue.push(m)
	if c.reader != nil {
		c.reader.wake()
	}
}

// hasRoom reports whether the channel may take another pending message. If it is for want of memory that it may
// not, it will be told when some is freed. The lock is held.
func (c *channel) hasRoom(l *broker.Limits) bool {
	mem := &c.registry.budget
	if c.queue.pending() >= l.Buffer {
		return false
	}
	if mem.hasRoom(l.MaxMemory) {
		return true
	}
	if !c.awaitsMemory {
		c.awaitsMemory = true
		mem.await(c)
	}
	return mem.hasRoom(l.MaxMemory) // some may have been freed before the channel was registered
}

// isDuplicate reports whether a message has the key of one that the channel holds, or has let go not long ago. Were a late
// repeat taken, it would stand behind newer messages with the id of an older one, and a cursor or an acknowledgement
// that shows the older one would settle those in between, which nobody has seen.
func (c *channel) isDuplicate(m *broker.Message) bool {
	return m.Keyed() && (c.letGoKeys.has(m.ID()) || c.queue.find(m.ID(), c.queue.len) >= 0)
}

// refusal is the error for a producer that gets no room any more. The lock is held.
func (c *channel) refusal(p *waiter) error {
	if c.queue.pending() < p.limits.Buffer && !c.registry.budget.hasRoom(p.limits.MaxMemory) {
		return c.refuse(p, memoryFull)
	}
	return c.refuse(p, channelFull)
}

// refuse counts what p has not published, and returns the error for it.
func (c *channel) refuse(p *waiter, why noRoom) error {
	c.counters.refused[why].Add(uint64(len(p.ms)))
	if why == memoryFull {
		return broker.ErrMemoryLimit
	}
	return broker.ErrTimeout
}

// enqueue puts p in line. The lock is held.
func (c *channel) enqueue(p *waiter) {
	for _, m := range p.ms {
		c.registry.budget.reserveHeld(m)
	}
	c.registry.producers.Add(1)
	p.since = c.registry.now()
	c.held.push(p)
}

// dequeue takes p out of the line and ends its wait. The lock is held.
func (c *channel) dequeue(p *waiter, err error) {
	for _, m := range p.ms {
		c.registry.budget.releaseHeld(m)
	}
	c.registry.producers.Add(-1)
	c.held.remove(p)
	p.err = err
	p.call.finished()
}

// admitHeld lets waiting producers in, first come first served. The lock is held.
func (c *channel) admitHeld() {
	for p := c.held.first; p != nil && c.admit(p); p = c.held.first {
		c.dequeue(p, nil)
	}
}

// withdraw takes a waiting producer out of the line, unless it is done already, and reports whether that is a failure.
func (c *channel) withdraw(p *waiter, err error) (failed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !p.waiting {
		return p.err != nil
	}
	if c.dropDuplicates(p); len(p.ms) == 0 {
		err = nil // the first writing got in meanwhile, by another call
	}
	switch {
	case errors.Is(err, broker.ErrTimeout):
		err = c.refusal(p)
	case errors.Is(err, broker.ErrSkipped):
		_ = c.refuse(p, channelFull) // the line before it waited for the same room
	}
	first := c.held.first == p
	c.dequeue(p, err)
	if first {
		c.admitHeld() // the next one may have a larger buffer, by a newer configuration
	}
	return err != nil
}

// memoryFreed is called by the registry for a channel that was in its list.
func (c *channel) memoryFreed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.awaitsMemory = false
	c.admitHeld()
}

// settle lets go of the oldest n messages, all of them in flight, as received. The lock is held.
func (c *channel) settle(n int) {
	if n == 0 {
		return
	}
	c.counters.settled.Add(uint64(n)) //nolint:gosec // not negative
	c.letGo(n)
}

// letGo removes the oldest n messages, all of them in flight. The lock is held.
func (c *channel) letGo(n int) {
	for range n {
		m := c.queue.popInFlight()
		c.settled = m.ID()
		if m.Keyed() {
			c.rememberKey(m.ID())
		}
		c.registry.budget.release(m)
	}
	if c.reader != nil {
		c.reader.shift(n)
	}
}

// rememberKey notes a keyed message that is let go. The lock is held.
func (c *channel) rememberKey(id broker.EventID) {
	if c.letGoKeys == nil {
		c.letGoKeys = new(keyWindow)
	}
	c.letGoKeys.add(id)
}

// close ends the channel's life: its reader is told why, its producers get the error, and what it holds is let
// go. It returns how many messages that were, and false if the channel was closed before.
func (c *channel) close(why broker.EndReason) (undelivered int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil || why == broker.EndExpired && (c.reader != nil || !c.expired(c.registry.now())) {
		return 0, false // the latter when a reader has come meanwhile
	}
	c.closed = broker.ErrNotFound
	if why == broker.EndClosed {
		c.closed = broker.ErrClosed
	}
	for p := c.held.first; p != nil; p = c.held.first {
		c.dequeue(p, c.closed)
	}
	if c.reader != nil {
		c.reader.finish(c.closed)
		c.reader = nil
		c.registry.readers.Add(-1)
	}
	c.counters.deleted[why].Add(1)
	c.counters.life.observe(lifeBounds, c.registry.now()-c.created, 1)
	c.counters.undelivered[why].inFlight.Add(uint64(c.queue.inFlight)) //nolint:gosec // not negative
	c.counters.undelivered[why].pending.Add(uint64(c.queue.pending())) //nolint:gosec // not negative
	undelivered = c.queue.len
	c.queue.inFlight = undelivered
	c.letGo(undelivered)
	c.queue, c.letGoKeys = queue{}, nil
	return undelivered, true
}

// expired reports whether nobody has read the channel for too long.
func (c *channel) expired(now time.Duration) bool { return c.expires.Load() <= int64(now) }

func (c *channel) state() (broker.State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		return broker.State{}, c.closed
	}
	s := broker.State{
		Connected: c.reader != nil,
		Pending:   c.queue.pending(),
		InFlight:  c.queue.inFlight,
		Created:   c.registry.wallTime(c.created),
	}
	if c.lastRead != 0 {
		s.LastRead = c.registry.wallTime(c.lastRead)
	}
	if c.reader == nil {
		s.Expires = c.registry.wallTime(time.Duration(c.expires.Load()))
	}
	return s, nil
}
