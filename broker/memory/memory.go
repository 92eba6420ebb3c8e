// Package memory keeps channels and their messages in the memory of this process. Its [Broker] implements
// [broker.Broker] and the optional interfaces of package broker. Its subscriptions implement [broker.Notifier].
//
// A message moves through the package like this:
//
//   - A write looks up the channel by its address. The channel takes the message if no producer waits in it, its queue
//     has room, and the budget has memory left. The message is then pending, the budget counts it, and the channel
//     wakes its reader.
//   - Otherwise, if the producer may wait, the message becomes part of a waiter in the channel's waitList, and the
//     producer is held. The channel admits its waiters in order: when its reader takes pending messages, when memory is
//     freed, and when the first waiter gives up. A waiter gives up when its hold time or its context ends. It fails
//     when the channel is deleted or drained, and when the Broker closes.
//   - The reader's subscription takes messages from the queue. A message that was taken stays in the queue, in flight,
//     until it is settled or leaves the window. Then the queue drops it, and the budget releases its memory.
//   - A channel that is deleted drops everything that it holds, and counts it as undelivered.
//
// A topic (topic.go) is a set of channels. A publish to it walks over its members and puts the message into each one's queue
// (topicpublish.go). What few channels have is in a struct of its own (rare.go).
//
// Each channel has one lock. It guards the channel's queue, its waiters and its reader. No code takes a second
// channel's lock while it holds one, so calls for different channels do not wait for each other. All channels share a
// concurrent map from addresses to channels, another one from names to topics, atomic counters, and a few small locks: those of
// the lists of channels and of topics, the deletion log, the events of topics, the drain and the budget. A topic and an ingestion
// have a lock each, too. The locks of the budget, of the lists, of topics and their events, and of an ingestion may be taken with
// a channel's lock held, never the other way round. The others are never taken with a channel's lock held. With a topic's lock
// held, only those of its map, of its list and of its events are taken, and the journal's.
//
// A journal, if there is one, is told of every change with the lock of the channel or the topic held (journal.go, topicjournal.go).
package memory

import (
	linked "container/list"
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/netturn"
)

// A Broker is the [broker.Broker] in this process's memory. Make one with [New].
type Broker struct {
	epoch     time.Time // the zero of the Broker's clock, which is monotonic
	channels  *xsync.Map[broker.Secret, *channel]
	list      list[*channel]
	count     atomic.Int64 // channels
	topics    topics
	budget    budget
	drain     drain
	quotas    quotas
	deletions deletionLog
	waiting   waiting

	journal  journal.Journal // may be nil
	restored atomic.Uint64   // messages that were in flight when the journal restored them

	readers atomic.Int64 // channels with a reader
	waiters atomic.Int64 // waiters in all channels

	unroutable atomic.Uint64 // messages to channels that did not exist
	counters   [counterShards]counters

	closed     atomic.Bool
	unreported chan struct{}      // there is something to report; see reportDelay
	flushes    chan chan struct{} // see FlushDeletions
	stop       chan struct{}
	stopped    chan struct{}
}

var _ broker.Broker = (*Broker)(nil)

// sweepInterval is how often the Broker looks for expired channels. A call for an expired channel finds out at once.
const sweepInterval = time.Second

// reportDelay is how long deletions, and what happens to topics, wait for more to be reported with.
const reportDelay = 100 * time.Millisecond

// New returns an empty Broker and starts its goroutine. Close stops the goroutine.
func New() *Broker {
	b := &Broker{
		epoch:      time.Now(),
		channels:   xsync.NewMap[broker.Secret, *channel](),
		budget:     budget{queues: map[int64]*linked.List{}, freed: make(chan struct{}, 1)},
		quotas:     quotas{xsync.NewMap[string, int]()},
		topics:     topics{byName: xsync.NewMap[string, *topic]()},
		unreported: make(chan struct{}, 1),
		flushes:    make(chan chan struct{}),
		stop:       make(chan struct{}),
		stopped:    make(chan struct{}),
	}
	go b.run()
	return b
}

// now returns the time on the Broker's clock. It is never zero.
func (b *Broker) now() time.Duration { return time.Since(b.epoch) + 1 }

// wallTime returns the time of day for a time on the Broker's clock.
func (b *Broker) wallTime(t time.Duration) time.Time { return b.epoch.Add(t - 1).Round(0) }

// run does the work in the background: it removes expired channels, reports deletions and messages that nobody reads, and
// admits producers that wait for memory.
func (b *Broker) run() {
	defer close(b.stopped)
	defer guard.Recover(guard.Broker)
	defer b.topics.flush()
	defer b.deletions.flush()
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	report := time.NewTimer(sweepInterval)
	defer report.Stop()
	for b.work(ticker, report) {
	}
}

// work waits for the next thing to do in the background, and does it. It reports false when the Broker is closed. A panic
// does not keep it from the next thing.
func (b *Broker) work(ticker *time.Ticker, report *time.Timer) (more bool) {
	defer guard.Recover(guard.Broker)
	more = true
	select {
	case <-ticker.C:
		b.sweep()
		b.sweepTopics()
		b.deletions.flush()
		b.topics.flush()
		b.reportWaiting()
	case <-b.unreported:
		report.Reset(reportDelay)
	case <-report.C:
		b.deletions.flush()
		b.topics.flush()
	case flushed := <-b.flushes:
		defer close(flushed)
		b.deletions.flush()
		b.topics.flush()
	case <-b.budget.freed:
		b.budget.admitNext()
	case <-b.stop:
		more = false
	}
	return more
}

// reportSoon makes the Broker's goroutine report. Whatever has something to report for the first time since calls it.
func (b *Broker) reportSoon() {
	select {
	case b.unreported <- struct{}{}:
	default:
	}
}

// sweep removes the expired channels. It locks only those.
func (b *Broker) sweep() {
	now := b.now()
	for c := range b.list.all() {
		if c.expired(now) {
			b.remove(c, broker.EndExpired)
			b.deletions.flushIfMany()
		}
	}
}

// remove closes a channel and removes it from the Broker. It reports whether it did. It returns false if the channel is
// closed already. It also returns false if the reason is EndExpired and the channel, once locked, is not expired any
// more.
func (b *Broker) remove(c *channel, reason broker.EndReason) bool {
	ok, _ := b.tryRemove(c, reason, byItself)
	return ok
}

// tryRemove is remove, and fails only if a call has asked for that and the journal fails. Then nothing happens.
func (b *Broker) tryRemove(c *channel, reason broker.EndReason, why cause) (bool, error) {
	undelivered, ok, err := c.close(reason, why)
	if !ok {
		return false, err
	}
	c.releaseQuota()
	if reason != broker.EndClosed {
		if b.deletions.add(broker.Deletion{Agent: c.agent, Secret: c.consumer, Undelivered: undelivered, Reason: reason}) {
			b.reportSoon()
		}
	}
	b.channels.Delete(c.producer)
	b.channels.Delete(c.consumer)
	b.list.remove(c)
	b.count.Add(-1)
	return true, nil
}

// Close ends every subscription and every wait with [broker.ErrClosed], and stops the Broker's goroutine. From then on
// all calls fail with ErrClosed. The messages that channels held count as undelivered.
func (b *Broker) Close() {
	if b.closed.Swap(true) {
		<-b.stopped
		return
	}
	close(b.stop)
	for c := range b.list.all() {
		b.remove(c, broker.EndClosed)
	}
	<-b.stopped
	b.drain.mu.Lock()
	defer b.drain.mu.Unlock()
	b.drain.end()
}

func (b *Broker) isClosed() bool { return b.closed.Load() }

// channelCount returns the number of channels.
func (b *Broker) channelCount() int { return int(b.count.Load()) }

// undelivered returns how many messages were let go unsettled, because their channel was deleted, since the Broker was
// made.
func (b *Broker) undelivered() int {
	var n uint64
	for i := range b.counters {
		for reason := range broker.EndReasons {
			u := &b.counters[i].undelivered[reason]
			n += u.pending.Load() + u.inFlight.Load()
		}
	}
	return int(n)
}

// MemoryUsed implements [broker.MemoryUser].
func (b *Broker) MemoryUsed() int64 { return b.budget.buffered.Load() + b.budget.held.Load() }

// kind says which of a channel's two addresses names it.
type kind int

const (
	producerKind kind = 1 << iota
	consumerKind
)

// lookup returns the live channel that an address of one of the given kinds names. It removes the channel if it has
// expired. It fails with ErrNotFound and ErrClosed.
func (b *Broker) lookup(address string, kinds kind) (*channel, error) {
	if b.isClosed() {
		return nil, broker.ErrClosed
	}
	agent, s, ok := broker.ParseAddress(address)
	if !ok {
		return nil, broker.ErrNotFound
	}
	c, ok := b.channels.Load(s)
	if !ok || c.agent != agent ||
		s == c.producer && kinds&producerKind == 0 ||
		s == c.consumer && kinds&consumerKind == 0 {
		return nil, b.missing()
	}
	if c.expires.Load() != never && c.expired(b.now()) {
		b.remove(c, broker.EndExpired)
		return nil, broker.ErrNotFound
	}
	return c, nil
}

// route is lookup for the channel that n messages are written to.
func (b *Broker) route(producer string, n int) (*channel, error) {
	c, err := b.lookup(producer, producerKind)
	if errors.Is(err, broker.ErrNotFound) {
		b.unroutable.Add(uint64(n)) //nolint:gosec // not negative
	}
	return c, err
}

// missing is the error for a channel that is not there: Close removes channels too.
func (b *Broker) missing() error {
	if b.isClosed() {
		return broker.ErrClosed
	}
	return broker.ErrNotFound
}

// Publish implements [broker.Broker].
func (b *Broker) Publish(ctx context.Context, producer string, m *broker.Message, l broker.Limits) error {
	c, err := b.route(producer, 1)
	if err != nil {
		return err
	}
	if ok, _, commit := c.publishNow(m, &l); ok {
		return commit.Wait(ctx)
	}
	return b.publish(ctx, []*channel{c}, []*broker.Message{m}, l)[0].Err
}

// PublishNow implements [broker.Broker].
func (b *Broker) PublishNow(producer string, m *broker.Message, l broker.Limits) bool {
	if b.journal != nil && b.journal.Waits() {
		return false
	}
	c, err := b.lookup(producer, producerKind)
	if err != nil {
		return false
	}
	ok, _, _ := c.publishNow(m, &l)
	return ok
}

// PublishBatch implements [broker.Broker].
func (b *Broker) PublishBatch(ctx context.Context, producers []string, ms []*broker.Message, l broker.Limits) []broker.Outcome {
	outcomes := make([]broker.Outcome, len(producers))
	channels := make([]*channel, 0, len(producers))
	for i, address := range producers {
		var c *channel
		if c, outcomes[i].Err = b.route(address, len(ms)); c != nil {
			channels = append(channels, c)
		}
	}
	published := b.publish(ctx, channels, ms, l)
	for i := range outcomes {
		if outcomes[i].Err == nil {
			outcomes[i], published = published[0], published[1:]
		}
	}
	return outcomes
}

// publish writes ms to each of the channels, and waits for those that have no room.
func (b *Broker) publish(ctx context.Context, channels []*channel, ms []*broker.Message, l broker.Limits) []broker.Outcome {
	waiters := make([]waiter, len(channels))
	batches, joins := b.batches(len(channels), len(ms)), joins(len(channels), ms)
	group := &waitGroup{done: make(chan struct{})}
	group.remaining.Store(1) // this loop
	pace := netturn.Every(yieldReaders)
	for i, c := range channels {
		w := &waiters[i]
		*w = waiter{channel: c, ms: ms, limits: l, owner: group, batches: batches, joins: joins}
		group.remaining.Add(1)
		if c.publish(w) {
			group.finished()
		}
		pace.Woke(1)
	}
	group.finished()
	if err := group.wait(ctx, l.Hold); err != nil {
		for i := range waiters {
			waiters[i].channel.withdraw(&waiters[i], err)
		}
	}
	outcomes := make([]broker.Outcome, len(channels))
	for i := range waiters {
		w := &waiters[i]
		if err := w.commit.Wait(ctx); err != nil {
			w.accepted, w.err = 0, err // some of them may not be durable
		}
		outcomes[i] = broker.Outcome{Accepted: w.accepted, Err: w.err}
	}
	return outcomes
}

// Subscribe implements [broker.Broker].
func (b *Broker) Subscribe(_ context.Context, consumer string, o broker.SubscribeOptions) (broker.Subscription, error) {
	c, err := b.lookup(consumer, consumerKind)
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
func (b *Broker) State(_ context.Context, address string) (broker.State, error) {
	c, err := b.lookup(address, producerKind|consumerKind)
	if err != nil {
		return broker.State{}, err
	}
	return c.state()
}

// Delete implements [broker.Broker].
func (b *Broker) Delete(ctx context.Context, address string) error {
	c, err := b.lookup(address, producerKind|consumerKind)
	if err == nil {
		var removed bool
		if removed, err = b.tryRemove(c, broker.EndDeleted, asked); removed {
			return c.ended(ctx)
		} else if err == nil {
			err = b.missing()
		}
	}
	if errors.Is(err, broker.ErrNotFound) {
		// It may have been deleted just now, and be there again after a restart.
		if unknown := b.barrier(ctx); unknown != nil {
			return unknown
		}
	}
	return err
}
