package megaphone

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
)

// A Registry is the [Broker] in this process's memory. Make one with [NewRegistry].
type Registry struct {
	epoch    time.Time // the zero of its clock, which is monotonic
	channels *xsync.Map[secret, *channel]
	list     channelList
	count    atomic.Int64
	memory   memory
	drain    drain
	quotas   quotas
	notices  notices

	readers   atomic.Int64 // channels with a reader
	producers atomic.Int64 // publications that wait for room
	tallies   [tallyCount]tally

	closed  atomic.Bool
	tell    chan chan struct{} // see tellDeletions
	stop    chan struct{}
	stopped chan struct{}
}

var _ Broker = (*Registry)(nil)

// sweepInterval is how often the registry looks for channels that have expired. A call for such a channel finds
// it expired before that.
const sweepInterval = time.Second

// NewRegistry returns an empty registry, with the goroutine that removes expired channels. Close stops it.
func NewRegistry() *Registry {
	r := &Registry{
		epoch:    time.Now(),
		channels: xsync.NewMap[secret, *channel](),
		memory:   memory{freed: make(chan struct{}, 1)},
		quotas:   quotas{xsync.NewMap[string, int]()},
		tell:     make(chan chan struct{}),
		stop:     make(chan struct{}),
		stopped:  make(chan struct{}),
	}
	go r.run()
	return r
}

// now is the time on the registry's clock. It is never zero.
func (r *Registry) now() time.Duration { return time.Since(r.epoch) + 1 }

// wallTime is the time of day for a time on the registry's clock.
func (r *Registry) wallTime(t time.Duration) time.Time { return r.epoch.Add(t - 1).Round(0) }

// run does what must be done in the background: it removes expired channels, and lets producers in that wait
// for memory.
func (r *Registry) run() {
	defer close(r.stopped)
	defer r.notices.flush()
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			r.sweep()
			r.notices.flush()
		case told := <-r.tell:
			r.notices.flush()
			close(told)
		case <-r.memory.freed:
			r.memory.tell()
		case <-r.stop:
			return
		}
	}
}

// sweep removes the channels that have expired. It takes the lock of those only.
func (r *Registry) sweep() {
	now := r.now()
	for c := range r.list.all() {
		if c.expired(now) {
			r.remove(c, EndExpired)
			r.notices.flushIfMany()
		}
	}
}

// remove ends a channel's life; with EndExpired, only if it is still expired once it is locked.
func (r *Registry) remove(c *channel, why EndReason) bool {
	undelivered, ok := c.close(why)
	if !ok {
		return false
	}
	if c.client != "" {
		r.quotas.give(c.client)
	}
	if why != EndClosed {
		r.notices.add(Deletion{c.agent, c.consumer, undelivered, why})
	}
	r.channels.Delete(c.producer)
	r.channels.Delete(c.consumer)
	r.list.remove(c)
	r.count.Add(-1)
	return true
}

// Close ends every subscription and every wait with [ErrClosed], and stops the registry's goroutine. From then
// on all calls fail with ErrClosed. What channels held counts as undelivered.
func (r *Registry) Close() {
	if r.closed.Swap(true) {
		<-r.stopped
		return
	}
	close(r.stop)
	for c := range r.list.all() {
		r.remove(c, EndClosed)
	}
	<-r.stopped
	r.drain.mu.Lock()
	defer r.drain.mu.Unlock()
	r.drain.end()
}

// Closed is closed when Close is called.
func (r *Registry) Closed() <-chan struct{} { return r.stop }

func (r *Registry) isClosed() bool { return r.closed.Load() }

// Len returns the number of channels.
func (r *Registry) Len() int { return int(r.count.Load()) }

// Undelivered returns how many messages were let go, since the registry was made, because their channel was
// deleted before they were settled.
func (r *Registry) Undelivered() int {
	var n uint64
	for i := range r.tallies {
		for why := range EndReasons {
			u := &r.tallies[i].undelivered[why]
			n += u.pending.Load() + u.inFlight.Load()
		}
	}
	return int(n)
}

// MemoryUsed returns the bytes of the messages that channels hold, each counted once.
func (r *Registry) MemoryUsed() int64 { return r.memory.buffered.Load() }

// kind is which of its two addresses names a channel.
type kind int

const (
	producerKind kind = 1 << iota
	consumerKind
)

// lookup finds the live channel that an address of one of the kinds names.
func (r *Registry) lookup(address string, kinds kind) (*channel, error) {
	if r.isClosed() {
		return nil, ErrClosed
	}
	agent, s, ok := parseAddress(address)
	if !ok {
		return nil, ErrNotFound
	}
	c, ok := r.channels.Load(s)
	if !ok || c.agent != agent ||
		s == c.producer && kinds&producerKind == 0 ||
		s == c.consumer && kinds&consumerKind == 0 {
		return nil, ErrNotFound
	}
	if c.expires.Load() != never && c.expired(r.now()) {
		r.remove(c, EndExpired)
		return nil, ErrNotFound
	}
	return c, nil
}

// Create implements [Broker].
func (r *Registry) Create(_ context.Context, agent string, l Limits) (Addresses, error) {
	if r.isClosed() {
		return Addresses{}, ErrClosed
	}
	if r.drain.active.Load() {
		return Addresses{}, ErrDraining
	}
	if r.count.Add(1) > int64(l.MaxChannels) {
		r.count.Add(-1)
		return Addresses{}, ErrChannelLimit
	}
	c := &channel{registry: r, agent: agent, created: r.now(), tag: rand.Uint32()} //nolint:gosec // no secret
	if l.MaxChannelsPerClient > 0 && l.Client != "" {
		if !r.quotas.take(l.Client, l.MaxChannelsPerClient) {
			r.count.Add(-1)
			return Addresses{}, ErrClientLimit
		}
		c.client = l.Client
	}
	c.producer, c.consumer = newSecrets()
	c.expires.Store(int64(c.created + l.TTL))
	c.tally = &r.tallies[c.producer[0]%tallyCount]
	c.tally.created.Add(1)
	r.channels.Store(c.producer, c)
	r.channels.Store(c.consumer, c)
	r.list.add(c)     // from now on it may be deleted
	if r.isClosed() { // and Close may not have seen it
		r.remove(c, EndClosed)
		return Addresses{}, ErrClosed
	}
	if r.drain.active.Load() { // and Drain may not have seen it
		r.remove(c, EndClosed) // tells nobody, for nobody knows of it
		return Addresses{}, ErrDraining
	}
	return Addresses{formatAddress(agent, c.producer), formatAddress(agent, c.consumer)}, nil
}

// Publish implements [Broker].
func (r *Registry) Publish(ctx context.Context, producer string, m *Message, l Limits) error {
	c, err := r.lookup(producer, producerKind)
	if err != nil {
		return err
	}
	if c.publishNow(m, l) {
		return nil
	}
	return r.publish(ctx, []*channel{c}, []*Message{m}, l)[0].Err
}

// PublishNow implements [Broker].
func (r *Registry) PublishNow(producer string, m *Message, l Limits) bool {
	c, err := r.lookup(producer, producerKind)
	return err == nil && c.publishNow(m, l)
}

// PublishBatch implements [Broker].
func (r *Registry) PublishBatch(ctx context.Context, producers []string, ms []*Message, l Limits) []Outcome {
	outcomes := make([]Outcome, len(producers))
	channels := make([]*channel, 0, len(producers))
	for i, address := range producers {
		var c *channel
		if c, outcomes[i].Err = r.lookup(address, producerKind); c != nil {
			channels = append(channels, c)
		}
	}
	published := r.publish(ctx, channels, ms, l)
	for i := range outcomes {
		if outcomes[i].Err == nil {
			outcomes[i], published = published[0], published[1:]
		}
	}
	return outcomes
}

// publish writes ms to each of the channels, waiting for those that have no room.
func (r *Registry) publish(ctx context.Context, channels []*channel, ms []*Message, l Limits) []Outcome {
	publications := make([]publication, len(channels))
	waits := &call{done: make(chan struct{})}
	waits.waiting.Store(1) // this loop
	for i, c := range channels {
		p := &publications[i]
		*p = publication{channel: c, ms: ms, limits: l, call: waits}
		waits.waiting.Add(1)
		if c.publish(p) {
			waits.finished()
		}
	}
	waits.finished()
	waits.wait(ctx, l.Hold, publications)
	outcomes := make([]Outcome, len(channels))
	for i := range publications {
		outcomes[i] = Outcome{Accepted: publications[i].accepted, Err: publications[i].err}
	}
	return outcomes
}

// Subscribe implements [Broker].
func (r *Registry) Subscribe(_ context.Context, consumer string, o SubscribeOptions) (Subscription, error) {
	c, err := r.lookup(consumer, consumerKind)
	if err != nil {
		return nil, err
	}
	s, err := c.subscribe(o)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// State implements [Broker].
func (r *Registry) State(_ context.Context, address string) (State, error) {
	c, err := r.lookup(address, producerKind|consumerKind)
	if err != nil {
		return State{}, err
	}
	return c.state()
}

// Delete implements [Broker].
func (r *Registry) Delete(_ context.Context, address string) error {
	c, err := r.lookup(address, producerKind|consumerKind)
	if err != nil {
		return err
	}
	if !r.remove(c, EndDeleted) {
		return ErrNotFound
	}
	return nil
}
