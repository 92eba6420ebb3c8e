package redis

import (
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// draining is the drain of this node. Its channels stay, for other nodes serve them too. Its reads end one after the other, so
// their clients move to other nodes, and it creates no channels.
type draining struct {
	mu          sync.Mutex
	state       broker.DrainState // as of the start
	undelivered int64             // the count at the start
	stop        chan struct{}
}

func (d *draining) isActive() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state.Active
}

// Drain implements [broker.Drainer]. DrainState counts the channels that this node has a reader of.
func (b *Broker) Drain(over time.Duration) broker.DrainState {
	d := &b.draining
	d.mu.Lock()
	defer d.mu.Unlock()
	if b.isClosed() {
		return d.state
	}
	d.end()
	readers := b.subs.snapshot()
	d.state = broker.DrainState{Active: true, Started: time.Now().Round(0), Over: over, Channels: len(readers)}
	d.undelivered = b.drainUndelivered.Load()
	d.stop = make(chan struct{})
	stop := d.stop
	guard.Go(guard.Broker, func() { b.drainAll(readers, over, stop) })
	return b.drainState()
}

// end stops the goroutine. The lock is held.
func (d *draining) end() {
	if d.stop != nil {
		close(d.stop)
		d.stop = nil
	}
}

// drainAll ends reads, spread over the given time.
func (b *Broker) drainAll(readers []*subscription, over time.Duration, stop chan struct{}) {
	start := time.Now()
	for i, s := range readers {
		turn := start.Add(over / time.Duration(len(readers)) * time.Duration(i))
		select {
		case <-time.After(time.Until(turn)):
			s.drain()
		case <-stop:
			return
		case <-b.closing:
			return
		}
	}
}

// drainNew tells a reader that has just come that it should end, if this node is being drained.
func (b *Broker) drainNew(s *subscription) {
	if b.draining.isActive() {
		s.drain()
	}
}

// Undrain implements [broker.Drainer].
func (b *Broker) Undrain() {
	d := &b.draining
	d.mu.Lock()
	defer d.mu.Unlock()
	d.end()
	d.state = broker.DrainState{}
	for _, s := range b.subs.snapshot() {
		s.undrain()
	}
}

// DrainState implements [broker.Drainer].
func (b *Broker) DrainState() broker.DrainState {
	b.draining.mu.Lock()
	defer b.draining.mu.Unlock()
	return b.drainState()
}

// drainState returns the state as of now. The lock of the drain is held.
func (b *Broker) drainState() broker.DrainState {
	state := b.draining.state
	if state.Active {
		state.Remaining = len(b.subs.snapshot())
		state.Done = state.Remaining == 0
		state.Undelivered = int(b.drainUndelivered.Load() - b.draining.undelivered)
	}
	return state
}
