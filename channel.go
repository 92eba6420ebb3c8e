package megaphone

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// A channel is one mailbox of a [Registry]: what it holds, the producers that wait for room, and its one reader.
// It knows neither HTTP nor Caddy.
//
// Everything below mu is guarded by it. Nothing is called out to, and no other channel's lock is taken, while
// it is held.
type channel struct {
	registry           *Registry
	agent              string
	producer, consumer secret
	client             string // whose quota it takes; may be empty
	place              int    // in the registry's list
	tag                uint32 // random: see id
	tally              *tally
	created            time.Duration

	// expires is when the channel dies, on the registry's clock; never while it has a reader.
	expires atomic.Int64

	// sealed tells that the channel takes no more messages, and is deleted once it holds none: see drain. It is
	// set under the lock.
	sealed atomic.Bool

	mu       sync.Mutex
	closed   error // why it takes no more calls: ErrNotFound once it is deleted, or ErrClosed
	queue    queue
	held     heldList
	reader   *subscription
	lastRead time.Duration // on the registry's clock; 0 when it was never read
	// settled is the newest message that was let go: a cursor that shows it is still good.
	settled EventID
	// letGoKeys has the keyed messages that were let go last; nil before the first of them.
	letGoKeys *keyWindow
	follows   bool // it was read by a reader that knows of cursors
	acks      bool // a reader has acknowledged
	// awaitsMemory tells that the registry has it in its list of channels to look at when memory is freed.
	awaitsMemory bool
}

// never is the time at which a channel with a reader expires.
const never = math.MaxInt64

// publishNow takes a message, or drops it as a repeat, if that needs no wait. It reports whether it did.
func (c *channel) publishNow(m *Message, l Limits) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed != nil:
		return false
	case c.repeats(m):
		c.tally.repeated.Add(1)
		return true
	case c.sealed.Load() || c.held.first != nil || !c.hasRoom(&l):
		return false
	}
	c.put(m)
	return true
}

// publish takes the messages that p still has to publish, as far as there is room, and keeps p in line for the
// rest. It reports whether p is done, by success or by an error.
func (c *channel) publish(p *publication) (done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		p.err = c.closed
		return true
	}
	c.dropRepeats(p) // which have their place already, and need not wait for another
	if len(p.ms) == 0 {
		return true
	}
	if c.sealed.Load() {
		p.err = ErrNotFound
		return true
	}
	if c.held.first == nil && c.admit(p) {
		return true
	}
	if p.limits.Hold <= 0 {
		p.err = c.refusal(p)
		return true
	}
	if !c.registry.memory.holds(p.limits.MaxMemory) {
		p.err = c.refuse(p, memoryFull)
		return true
	}
	c.hold(p)
	return false
}

// admit moves messages of p into the queue as far as there is room, and reports whether p is done. The lock is held.
func (c *channel) admit(p *publication) (done bool) {
	for c.dropRepeats(p); len(p.ms) > 0; c.dropRepeats(p) {
		if !c.hasRoom(&p.limits) {
			return false
		}
		c.put(p.ms[0])
		if p.waiting {
			c.tally.wait.observe(waitBounds, c.registry.now()-p.since, 1)
		}
		c.accept(p)
	}
	return true
}

// dropRepeats drops the next messages of p that the channel has already. The lock is held.
func (c *channel) dropRepeats(p *publication) {
	for len(p.ms) > 0 && c.repeats(p.ms[0]) {
		c.tally.repeated.Add(1)
		c.accept(p)
	}
}

// accept notes that the next message of p is taken. The lock is held.
func (c *channel) accept(p *publication) {
	if p.waiting {
		c.registry.memory.unhold(p.ms[0])
	}
	p.ms = p.ms[1:]
	p.accepted++
}

// put appends a message and wakes the reader. The lock is held.
func (c *channel) put(m *Message) {
	c.registry.memory.buffer(m)
	c.tally.accepted.Add(1)
	c.queue.push(m)
	if c.reader != nil {
		c.reader.wake()
	}
}

// hasRoom reports whether the channel may take another pending message. If it is for want of memory that it may
// not, it will be told when some is freed. The lock is held.
func (c *channel) hasRoom(l *Limits) bool {
	mem := &c.registry.memory
	if c.queue.pending() >= l.Buffer {
		return false
	}
	if mem.admits(l.MaxMemory) {
		return true
	}
	if !c.awaitsMemory {
		c.awaitsMemory = true
		mem.await(c)
	}
	return mem.admits(l.MaxMemory) // some may have been freed before the channel was registered
}

// repeats reports whether a message has the key of one that the channel holds, or has let go not long ago. Were a late
// repeat taken, it would stand behind newer messages with the id of an older one, and a cursor or an acknowledgement
// that shows the older one would settle those in between, which nobody has seen.
func (c *channel) repeats(m *Message) bool {
	return m.keyed && (c.letGoKeys.has(m.id) || c.queue.find(m.id, c.queue.len) >= 0)
}

// refusal is the error for a producer that gets no room any more. The lock is held.
func (c *channel) refusal(p *publication) error {
	if c.queue.pending() < p.limits.Buffer && !c.registry.memory.admits(p.limits.MaxMemory) {
		return c.refuse(p, memoryFull)
	}
	return c.refuse(p, channelFull)
}

// refuse counts what p has not published, and returns the error for it.
func (c *channel) refuse(p *publication, why noRoom) error {
	c.tally.refused[why].Add(uint64(len(p.ms)))
	if why == memoryFull {
		return ErrMemoryLimit
	}
	return ErrTimeout
}

// hold puts p in line. The lock is held.
func (c *channel) hold(p *publication) {
	for _, m := range p.ms {
		c.registry.memory.hold(m)
	}
	c.registry.producers.Add(1)
	p.since = c.registry.now()
	c.held.push(p)
}

// unhold takes p out of the line and ends its wait. The lock is held.
func (c *channel) unhold(p *publication, err error) {
	for _, m := range p.ms {
		c.registry.memory.unhold(m)
	}
	c.registry.producers.Add(-1)
	c.held.remove(p)
	p.err = err
	p.call.finished()
}

// admitHeld lets waiting producers in, first come first served. The lock is held.
func (c *channel) admitHeld() {
	for p := c.held.first; p != nil && c.admit(p); p = c.held.first {
		c.unhold(p, nil)
	}
}

// withdraw takes a waiting producer out of the line, unless it is done already, and reports whether that is a failure.
func (c *channel) withdraw(p *publication, err error) (failed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !p.waiting {
		return p.err != nil
	}
	if c.dropRepeats(p); len(p.ms) == 0 {
		err = nil // the first writing got in meanwhile, by another call
	}
	switch {
	case errors.Is(err, ErrTimeout):
		err = c.refusal(p)
	case errors.Is(err, ErrSkipped):
		_ = c.refuse(p, channelFull) // the line before it waited for the same room
	}
	first := c.held.first == p
	c.unhold(p, err)
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
	c.tally.settled.Add(uint64(n)) //nolint:gosec // not negative
	c.letGo(n)
}

// letGo removes the oldest n messages, all of them in flight. The lock is held.
func (c *channel) letGo(n int) {
	for range n {
		m := c.queue.popInFlight()
		c.settled = m.id
		if m.keyed {
			c.rememberKey(m.id)
		}
		c.registry.memory.unbuffer(m)
	}
	if c.reader != nil {
		c.reader.leave(n)
	}
}

// rememberKey notes a keyed message that is let go. The lock is held.
func (c *channel) rememberKey(id EventID) {
	if c.letGoKeys == nil {
		c.letGoKeys = new(keyWindow)
	}
	c.letGoKeys.add(id)
}

// close ends the channel's life: its reader is told why, its producers get the error, and what it holds is let
// go. It returns how many messages that were, and false if the channel was closed before.
func (c *channel) close(why EndReason) (undelivered int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil || why == EndExpired && (c.reader != nil || !c.expired(c.registry.now())) {
		return 0, false // the latter when a reader has come meanwhile
	}
	c.closed = ErrNotFound
	if why == EndClosed {
		c.closed = ErrClosed
	}
	for p := c.held.first; p != nil; p = c.held.first {
		c.unhold(p, c.closed)
	}
	if c.reader != nil {
		c.reader.over(c.closed)
		c.reader = nil
		c.registry.readers.Add(-1)
	}
	c.tally.deleted[why].Add(1)
	c.tally.life.observe(lifeBounds, c.registry.now()-c.created, 1)
	c.tally.undelivered[why].inFlight.Add(uint64(c.queue.inFlight)) //nolint:gosec // not negative
	c.tally.undelivered[why].pending.Add(uint64(c.queue.pending())) //nolint:gosec // not negative
	undelivered = c.queue.len
	c.queue.inFlight = undelivered
	c.letGo(undelivered)
	c.queue, c.letGoKeys = queue{}, nil
	return undelivered, true
}

// expired reports whether nobody has read the channel for too long.
func (c *channel) expired(now time.Duration) bool { return c.expires.Load() <= int64(now) }

func (c *channel) state() (State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		return State{}, c.closed
	}
	s := State{
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
