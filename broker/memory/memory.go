package memory

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/puzpuzpuz/xsync/v4"
)

// A Broker is the [broker.Broker] in this process's memory. Make one with [New].
type Broker struct {
	epoch     time.Time // the zero of its clock, which is monotonic
	channels  *xsync.Map[broker.Secret, *channel]
	list      channelList
	count     atomic.Int64
	budget    budget
	drain     drain
	quotas    quotas
	deletions deletionLog

	readers   atomic.Int64 // channels with a reader
	producers atomic.Int64 // publications that wait for room
	counters  [counterShards]counters

	closed  atomic.Bool
	flushes chan chan struct{} // see FlushDeletions
	stop    chan struct{}
	stopped chan struct{}
}

var _ broker.Broker = (*Broker)(nil)

// sweepInterval is how often the registry looks for channels that have expired. A call for such a channel finds
// it expired before that.
const sweepInterval = time.Second

// New returns an empty registry, with the goroutine that removes expired channels. Close stops it.
func New() *Broker {
	r := &Broker{
		epoch:    time.Now(),
		channels: xsync.NewMap[broker.Secret, *channel](),
		budget:   budget{freed: make(chan struct{}, 1)},
		quotas:   quotas{xsync.NewMap[string, int]()},
		flushes:  make(chan chan struct{}),
		stop:     make(chan struct{}),
		stopped:  make(chan struct{}),
	}
	go r.run()
	return r
}

// now is the time on the registry's clock. It is never zero.
func (r *Broker) now() time.Duration { return time.Since(r.epoch) + 1 }

// wallTime is the time of day for a time on the registry's clock.
func (r *Broker) wallTime(t time.Duration) time.Time { return r.epoch.Add(t - 1).Round(0) }

// run does what must be done in the background: it removes expired channels, and lets producers in that wait
// for memory.
func (r *Broker) run() {
	defer close(r.stopped)
	defer r.deletions.flush()
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			r.sweep()
			r.deletions.flush()
		case told := <-r.flushes:
			r.deletions.flush()
			close(told)
		case <-r.budget.freed:
			r.budget.retryAll()
		case <-r.stop:
			return
		}
	}
}

// sweep removes the channels that have expired. It takes the lock of those only.
func (r *Broker) sweep() {
	now := r.now()
	for c := range r.list.all() {
		if c.expired(now) {
			r.remove(c, broker.EndExpired)
			r.deletions.flushIfMany()
		}
	}
}

// remove ends a channel's life; with EndExpired, only if it is still expired once it is locked.
func (r *Broker) remove(c *channel, why broker.EndReason) bool {
	undelivered, ok := c.close(why)
	if !ok {
		return false
	}
	if c.client != "" {
		r.quotas.release(c.client)
	}
	if why != broker.EndClosed {
		r.deletions.add(broker.Deletion{Agent: c.agent, Secret: c.consumer, Undelivered: undelivered, Reason: why})
	}
	r.channels.Delete(c.producer)
	r.channels.Delete(c.consumer)
	r.list.remove(c)
	r.count.Add(-1)
	return true
}

// Close ends every subscription and every wait with [broker.ErrClosed], and stops the registry's goroutine. From then
// on all calls fail with ErrClosed. What channels held counts as undelivered.
func (r *Broker) Close() {
	if r.closed.Swap(true) {
		<-r.stopped
		return
	}
	close(r.stop)
	for c := range r.list.all() {
		r.remove(c, broker.EndClosed)
	}
	<-r.stopped
	r.drain.mu.Lock()
	defer r.drain.mu.Unlock()
	r.drain.end()
}

// Closed is closed when Close is called.
func (r *Broker) Closed() <-chan struct{} { return r.stop }

func (r *Broker) isClosed() bool { return r.closed.Load() }

// Len returns the number of channels.
func (r *Broker) Len() int { return int(r.count.Load()) }

// Undelivered returns how many messages were let go, since the registry was made, because their channel was
// deleted before they were settled.
func (r *Broker) Undelivered() int {
	var n uint64
	for i := range r.counters {
		for why := range broker.EndReasons {
			u := &r.counters[i].undelivered[why]
			n += u.pending.Load() + u.inFlight.Load()
		}
	}
	return int(n)
}

// MemoryUsed returns the bytes of the messages that channels hold, each counted once.
func (r *Broker) MemoryUsed() int64 { return r.budget.buffered.Load() }

// kind is which of its two addresses names a channel.
type kind int

const (
	producerKind kind = 1 << iota
	consumerKind
)

// lookup finds the live channel that an address of one of the kinds names.
func (r *Broker) lookup(address string, kinds kind) (*channel, error) {
	if r.isClosed() {
		return nil, broker.ErrClosed
	}
	agent, s, ok := broker.ParseAddress(address)
	if !ok {
		return nil, broker.ErrNotFound
	}
	c, ok := r.channels.Load(s)
	if !ok || c.agent != agent ||
		s == c.producer && kinds&producerKind == 0 ||
		s == c.consumer && kinds&consumerKind == 0 {
		return nil, broker.ErrNotFound
	}
	if c.expires.Load() != never && c.expired(r.now()) {
		r.remove(c, broker.EndExpired)
		return nil, broker.ErrNotFound
	}
	return c, nil
}

// Create implements [broker.Broker].
func (r *Broker) Create(_ context.Context, agent string, l broker.Limits) (broker.Addresses, error) {
	if r.isClosed() {
		return broker.Addresses{}, broker.ErrClosed
	}
	if r.drain.active.Load() {
		return broker.Addresses{}, broker.ErrDraining
	}
	if r.count.Add(1) > int64(l.MaxChannels) {
		r.count.Add(-1)
		return broker.Addresses{}, broker.ErrChannelLimit
	}
	c := &channel{registry: r, agent: agent, created: r.now(), tag: rand.Uint32()} //nolint:gosec // no secret
	if l.MaxChannelsPerClient > 0 && l.Client != "" {
		if !r.quotas.reserve(l.Client, l.MaxChannelsPerClient) {
			r.count.Add(-1)
			return broker.Addresses{}, broker.ErrClientLimit
		}
		c.client = l.Client
	}
	c.producer, c.consumer = broker.NewSecrets()
	c.expires.Store(int64(c.created + l.TTL))
	c.counters = &r.counters[c.producer[0]%counterShards]
	c.counters.created.Add(1)
	r.channels.Store(c.producer, c)
	r.channels.Store(c.consumer, c)
	r.list.add(c)     // from now on it may be deleted
	if r.isClosed() { // and Close may not have seen it
		r.remove(c, broker.EndClosed)
		return broker.Addresses{}, broker.ErrClosed
	}
	if r.drain.active.Load() { // and Drain may not have seen it
		r.remove(c, broker.EndClosed) // tells nobody, for nobody knows of it
		return broker.Addresses{}, broker.ErrDraining
	}
	return c.addresses(), nil
}

// Publish implements [broker.Broker].
func (r *Broker) Publish(ctx context.Context, producer string, m *broker.Message, l broker.Limits) error {
	c, err := r.lookup(producer, producerKind)
	if err != nil {
		return err
	}
	if c.publishNow(m, l) {
		return nil
	}
	return r.publish(ctx, []*channel{c}, []*broker.Message{m}, l)[0].Err
}

// PublishNow implements [broker.Broker].
func (r *Broker) PublishNow(producer string, m *broker.Message, l broker.Limits) bool {
	c, err := r.lookup(producer, producerKind)
	return err == nil && c.publishNow(m, l)
}

// PublishBatch implements [broker.Broker].
func (r *Broker) PublishBatch(ctx context.Context, producers []string, ms []*broker.Message, l broker.Limits) []broker.Outcome {
	outcomes := make([]broker.Outcome, len(producers))
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
func (r *Broker) publish(ctx context.Context, channels []*channel, ms []*broker.Message, l broker.Limits) []broker.Outcome {
	publications := make([]waiter, len(channels))
	waits := &call{done: make(chan struct{})}
	waits.waiting.Store(1) // this loop
	for i, c := range channels {
		p := &publications[i]
		*p = waiter{channel: c, ms: ms, limits: l, call: waits}
		waits.waiting.Add(1)
		if c.publish(p) {
			waits.finished()
		}
	}
	waits.finished()
	waits.wait(ctx, l.Hold, publications)
	outcomes := make([]broker.Outcome, len(channels))
	for i := range publications {
		outcomes[i] = broker.Outcome{Accepted: publications[i].accepted, Err: publications[i].err}
	}
	return outcomes
}

// Subscribe implements [broker.Broker].
func (r *Broker) Subscribe(_ context.Context, consumer string, o broker.SubscribeOptions) (broker.Subscription, error) {
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

// State implements [broker.Broker].
func (r *Broker) State(_ context.Context, address string) (broker.State, error) {
	c, err := r.lookup(address, producerKind|consumerKind)
	if err != nil {
		return broker.State{}, err
	}
	return c.state()
}

// Delete implements [broker.Broker].
func (r *Broker) Delete(_ context.Context, address string) error {
	c, err := r.lookup(address, producerKind|consumerKind)
	if err != nil {
		return err
	}
	if !r.remove(c, broker.EndDeleted) {
		return broker.ErrNotFound
	}
	return nil
}
