package memory

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/netturn"
)

// A drain empties a Broker, so that its process can stop without losing anything. While it is active, Create makes no
// channels. The drain seals the channels one after the other, spread over a given time. A sealed channel takes no more
// messages: its producers get ErrNotFound. Only ends of topics still come, for these were promised. Its reader takes what it
// holds, and ends. The drain deletes the channel once all its messages are settled. Until then it may expire like any
// other. Its client then finds no channel, and creates a new one on another server.
type drain struct {
	active atomic.Bool // Create fails with ErrDraining

	mu    sync.Mutex
	state broker.DrainState // as of the start: Undelivered is the Broker's count then
	left  atomic.Int64      // channels of the drain that still exist
	stop  chan struct{}     // ends the goroutine; nil if there is none
	ended chan struct{}     // is closed when the goroutine has ended
}

// Drain implements [broker.Drainer].
func (b *Broker) Drain(over time.Duration) broker.DrainState {
	d := &b.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	if b.isClosed() {
		return d.state
	}
	d.end()
	d.active.Store(true)
	channels := slices.Collect(b.list.all())
	d.state = broker.DrainState{
		Active: true, Started: time.Now().Round(0), Over: over,
		Channels: len(channels), Remaining: len(channels), Undelivered: b.undelivered(),
	}
	d.left.Store(int64(len(channels)))
	d.stop, d.ended = make(chan struct{}), make(chan struct{})
	go b.sealAll(channels, over, d.stop, d.ended)
	return b.drainState()
}

// Undrain implements [broker.Drainer].
func (b *Broker) Undrain() {
	d := &b.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.active.Load() {
		return
	}
	d.end()
	for c := range b.list.all() {
		c.sealed.Store(false)
	}
	d.state = broker.DrainState{}
	d.active.Store(false)
}

// DrainState implements [broker.Drainer].
func (b *Broker) DrainState() broker.DrainState {
	b.drain.mu.Lock()
	defer b.drain.mu.Unlock()
	return b.drainState()
}

// drainState returns how far the drain has come. The drain's lock is held.
func (b *Broker) drainState() broker.DrainState {
	s := b.drain.state
	if s.Active {
		s.Remaining = int(b.drain.left.Load())
		s.Done = s.Remaining == 0
		s.Undelivered = b.undelivered() - s.Undelivered
	}
	return s
}

// end stops the drain's goroutine, if there is one. The lock is held.
func (d *drain) end() {
	if d.stop == nil {
		return
	}
	close(d.stop)
	<-d.ended
	d.stop = nil
}

// drainPause is how long a drain waits, at least, before it looks at the sealed channels again.
const drainPause = 50 * time.Millisecond

// sealAll is the drain's goroutine. It seals the channels one after the other, and deletes those whose messages are all
// settled.
func (b *Broker) sealAll(channels []*channel, over time.Duration, stop, ended chan struct{}) {
	defer close(ended)
	defer guard.Recover(guard.Broker)
	all, sealed, start := len(channels), 0, time.Now()
	var waiting []*channel
	pace := netturn.Every(yieldReaders)
	for {
		begin, due := time.Now(), all
		if passed := begin.Sub(start); passed < over {
			due = int(float64(all) * float64(passed) / float64(over))
		}
		for ; sealed < due; sealed++ {
			channels[sealed].seal()
			waiting = append(waiting, channels[sealed])
			channels[sealed] = nil
			pace.Woke(1)
		}
		waiting = slices.DeleteFunc(waiting, b.removeIfEmpty)
		left := all - sealed + len(waiting)
		b.drain.left.Store(int64(left))
		if left == 0 {
			return
		}
		select {
		case <-time.After(max(drainPause, 9*time.Since(begin))): // takes at most a tenth of one core
		case <-stop:
			return
		case <-b.stop:
			return
		}
	}
}

// removeIfEmpty removes a sealed channel if it is empty. It reports whether the channel is gone.
func (b *Broker) removeIfEmpty(c *channel) bool {
	if ok, _ := b.tryRemove(c, broker.EndDeleted, drained); ok {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed != open
}

// isEmpty reports whether the channel holds nothing, and nothing waits in it. The lock is held.
func (c *channel) isEmpty() bool { return c.queue.len == 0 && c.held.first == nil }

// errSealed is the error of a message of a topic that waited for room in a member which was sealed. Unlike one whose channel is
// gone, the member has missed it, and says so if the drain is undone or an end comes.
var errSealed = errors.New("the channel is sealed")

// seal stops the channel from taking messages. What waits in it is finished in order: an end of a topic comes, since nothing is left
// before it, and the rest fails. Its reader wakes, to take what the channel holds and end.
func (c *channel) seal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sealed.Store(true)
	for w := c.held.first; w != nil; {
		next := w.next
		if !w.outside {
			c.refuseHeld(w)
		} else if c.held.first == w { // no end before it waits for the journal
			_, _ = c.admitFirst()
		}
		w = next
	}
	c.awaitMemory(false)
	if c.reader != nil {
		c.reader.wake()
	}
}

// refuseHeld finishes a waiter of a channel that is sealed. What the channel has already, it need not take. The lock is held.
func (c *channel) refuseHeld(w *waiter) {
	switch c.dropDuplicates(w); {
	case len(w.ms) == 0:
		c.dequeue(w, nil)
	case w.topic != nil:
		c.dequeue(w, errSealed)
	default:
		c.dequeue(w, broker.ErrNotFound)
	}
}

// Drained implements [broker.Subscription].
func (s *subscription) Drained() bool {
	c := s.channel
	if !c.sealed.Load() {
		return false // without the lock, for readers ask after every message
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reader == s && s.next == c.queue.len && c.held.first == nil
}
