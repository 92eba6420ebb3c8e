package memory

import (
	"github.com/caddy-megaphone/megaphone/broker"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A drain empties a registry so that its process can be stopped and nothing is lost. No channel is created any
// more. One after the other, spread over a given time, the channels are sealed: a sealed channel takes no more
// messages, its producers are told that it is gone; its reader gets what it holds, and ends. It is deleted when
// all of it is settled, or when it expires as any other. Its client then finds it gone, and gets a new channel
// from another server.
type drain struct {
	active atomic.Bool // no channels are created

	mu    sync.Mutex
	state broker.DrainState
	left  atomic.Int64 // channels of the drain that are not gone
	stop  chan struct{}
	ended chan struct{}
}

// Drain begins to empty the registry, or begins anew with another time. It goes on until Undrain is called.
func (r *Broker) Drain(over time.Duration) broker.DrainState {
	d := &r.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.isClosed() {
		return d.state
	}
	d.end()
	d.active.Store(true)
	channels := slices.Collect(r.list.all())
	d.state = broker.DrainState{
		Active: true, Started: time.Now().Round(0), Over: over,
		Channels: len(channels), Remaining: len(channels), Undelivered: r.Undelivered(),
	}
	d.left.Store(int64(len(channels)))
	d.stop, d.ended = make(chan struct{}), make(chan struct{})
	go r.seal(channels, over, d.stop, d.ended)
	return r.drainState()
}

// Undrain ends a drain. Channels that are still there take messages again.
func (r *Broker) Undrain() {
	d := &r.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.active.Load() {
		return
	}
	d.end()
	for c := range r.list.all() {
		c.sealed.Store(false)
	}
	d.state = broker.DrainState{}
	d.active.Store(false)
}

// DrainState tells how far the drain has come; the zero value if there is none.
func (r *Broker) DrainState() broker.DrainState {
	r.drain.mu.Lock()
	defer r.drain.mu.Unlock()
	return r.drainState()
}

func (r *Broker) drainState() broker.DrainState {
	s := r.drain.state
	if s.Active {
		s.Remaining = int(r.drain.left.Load())
		s.Done = s.Remaining == 0
		s.Undelivered = r.Undelivered() - s.Undelivered
	}
	return s
}

// end stops the goroutine of a drain. The lock is held.
func (d *drain) end() {
	if d.stop == nil {
		return
	}
	close(d.stop)
	<-d.ended
	d.stop = nil
}

// drainPause is the time between two looks at the channels that are sealed.
const drainPause = 50 * time.Millisecond

// seal seals the channels one after the other, and deletes those that are settled.
func (r *Broker) seal(channels []*channel, over time.Duration, stop, ended chan struct{}) {
	defer close(ended)
	all, sealed, start := len(channels), 0, time.Now()
	var waiting []*channel
	for {
		begin, due := time.Now(), all
		if passed := begin.Sub(start); passed < over {
			due = int(float64(all) * float64(passed) / float64(over))
		}
		for ; sealed < due; sealed++ {
			channels[sealed].seal()
			waiting = append(waiting, channels[sealed])
			channels[sealed] = nil
		}
		waiting = slices.DeleteFunc(waiting, r.settled)
		left := all - sealed + len(waiting)
		r.drain.left.Store(int64(left))
		if left == 0 {
			return
		}
		select {
		case <-time.After(max(drainPause, 9*time.Since(begin))): // a tenth of one core at most
		case <-stop:
			return
		case <-r.stop:
			return
		}
	}
}

// settled reports whether a sealed channel is gone, which it is from now on if it holds nothing.
func (r *Broker) settled(c *channel) bool {
	c.mu.Lock()
	closed, held := c.closed != nil, c.queue.len
	c.mu.Unlock()
	if !closed && held == 0 {
		r.remove(c, broker.EndDeleted)
	}
	return closed || held == 0
}

// seal makes the channel take no more messages. Its reader learns that it should take the rest, and end.
func (c *channel) seal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sealed.Store(true)
	for p := c.held.first; p != nil; p = c.held.first {
		c.dequeue(p, broker.ErrNotFound)
	}
	if c.reader != nil {
		c.reader.wake()
	}
}

// Drained implements [broker.Subscription].
func (s *subscription) Drained() bool {
	c := s.channel
	if !c.sealed.Load() {
		return false // without the lock: it is asked after every message
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reader == s && s.next == c.queue.len
}
