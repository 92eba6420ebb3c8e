package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// An item is messages for one channel, written in one step.
type item struct {
	x      channelID
	ms     []string // as encode makes them
	limits *broker.Limits
	number uint64 // names the call if it has to wait
	size   int    // of ms
	keyed  bool   // one of ms has an idempotency key
	single bool   // one of ms may be merged, or is too large to push
	begun  time.Time
	queued time.Time // in its lane

	// The outcome, once done has a value.
	status               itemStatus
	accepted, duplicates int
	replaced, appended   int // of accepted
	err                  error
	finished             bool
	done                 chan struct{}
}

// An itemStatus says what became of an item. Its values are those of lua/publish.lua.
type itemStatus byte

const (
	itemTaken itemStatus = iota
	itemFull
	itemNoMemory
	itemHeld
	itemNotFound
)

// Bounds of a lane.
const (
	maxBatch      = 100       // channels in one call, and items unless more of them are for the same channels
	maxBatchItems = 500       // items in one call; this takes Redis about a millisecond
	maxBatchBytes = 256 << 10 // of messages in one call, unless a single item is larger
	maxCalls      = 2         // calls at once
	minSecondCall = 32        // items that must wait before there is a second call at once: larger calls cost Redis less
	maxSyncCalls  = 4         // calls at once that wait for replicas or for a disk
	maxQueued     = 10_000    // items that wait for their call
	maxUnpacked   = 2_000     // messages of one call: Lua cannot unpack many more
	maxPushed     = 8 << 10   // bytes of a message that is pushed, as in lua/state.lua; readers fetch larger ones
)

// errBusy is the error for a write that finds too many others waiting for Redis.
var errBusy = fmt.Errorf("%w: redis: too many writes wait for it: it is too slow or cannot be reached", broker.ErrUnavailable)

// A lane collects the writes to one scope while others are on their way to Redis. So under load one call carries the messages
// of many producers, and an idle lane adds no delay. Writes that have waited for as long as a call may take are not begun.
type lane struct {
	broker *Broker
	scope  int

	mu    sync.Mutex
	queue []*item
	calls int // how many goroutines empty the queue
}

func (l *lane) submit(items ...*item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue)+len(items) > maxQueued {
		for _, it := range items {
			it.finish(errBusy)
		}
		return
	}
	now := time.Now()
	for _, it := range items {
		it.queued = now
	}
	l.queue = append(l.queue, items...)
	most := maxCalls
	if l.broker.options.Durability.waits() {
		most = maxSyncCalls
	}
	if l.calls == 0 || l.calls < most && (len(l.queue) >= minSecondCall || l.broker.options.Durability.waits()) {
		l.calls++
		go l.empty()
	}
}

// empty makes calls until there is nothing to write.
func (l *lane) empty() {
	defer guard.Recover(guard.Broker)
	var batch []*item
	panics := true
	defer func() {
		if panics {
			l.fail(batch)
		}
	}()
	for {
		l.mu.Lock()
		l.dropLate()
		n := nextBatch(l.queue)
		batch = l.queue[:n:n]
		if l.queue = l.queue[n:]; len(l.queue) == 0 {
			l.queue = nil
		}
		if n == 0 {
			l.calls--
			panics = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		l.broker.publishItems(l.scope, batch)
	}
}

// dropLate refuses the writes that have waited for too long. The lock is held.
func (l *lane) dropLate() {
	for len(l.queue) > 0 && time.Since(l.queue[0].queued) > l.broker.options.Timeout {
		l.queue[0].finish(errBusy)
		l.queue = l.queue[1:]
	}
}

// nextBatch returns how many of the items go into the next call.
func nextBatch(queue []*item) (n int) {
	size, messages := 0, 0
	var channels map[channelID]struct{} // of the first items
	var limits map[itemLimits]struct{}  // of these, too: one byte says which are those of an item
	for n < len(queue) && n < maxBatchItems {
		it := queue[n]
		if n >= maxBatch {
			if channels == nil {
				channels, limits = make(map[channelID]struct{}, maxBatch), map[itemLimits]struct{}{}
				for _, earlier := range queue[:n] {
					channels[earlier.x], limits[limitsOf(earlier.limits)] = struct{}{}, struct{}{}
				}
			}
			_, known := channels[it.x]
			if _, ok := limits[limitsOf(it.limits)]; !ok || !known {
				break
			}
		}
		size += it.size
		messages += len(it.ms)
		if n > 0 && (size > maxBatchBytes || messages > maxUnpacked) {
			break
		}
		n++
	}
	return n
}

// fail finishes the items of a call that has panicked, and goes on with those that wait.
func (l *lane) fail(batch []*item) {
	for _, it := range batch {
		if !it.finished {
			it.finish(errPanicked)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls--; len(l.queue) > 0 {
		l.calls++
		go l.empty()
	}
}

var (
	// errPanic is why a panic has ended something. The log has the panic.
	errPanic = errors.New("redis: a panic has ended it")
	// errPanicked is the error of a write that a panic has ended.
	errPanicked = fmt.Errorf("%w: %w", broker.ErrOutcomeUnknown, errPanic)
)

// publishItems writes items in one call, and finishes them.
func (b *Broker) publishItems(scope int, batch []*item) {
	batch = byChannel(batch)
	call := b.publishCall(scope, batch)
	ctx, cancel := context.WithTimeout(b.background, b.options.Timeout)
	defer cancel()
	var reply rueidis.RedisResult
	var durable error
	if b.options.Durability.waits() {
		reply, durable = b.runDurably(ctx, publishScript, call)
	} else {
		begun := time.Now()
		reply = publishScript.run(ctx, b.client, call)
		b.store.called(begun, reply.Error())
	}
	message, err := reply.ToMessage()
	if err != nil {
		err = b.failed(err, true)
		for _, it := range batch {
			if errors.Is(err, broker.ErrMemoryLimit) {
				b.stats.refusedMemory.Add(uint64(len(it.ms)))
			}
			it.finish(err)
		}
		return
	}
	readOutcomes(message, batch)
	b.countPublished(batch)
	for _, it := range batch {
		if it.err == nil && durable != nil {
			it.err, it.accepted, it.duplicates = durable, 0, 0
		}
		it.finish(it.err)
	}
}

// countPublished counts what a call has written.
func (b *Broker) countPublished(batch []*item) {
	messages, duplicates := 0, 0
	for _, it := range batch {
		messages += it.accepted - it.duplicates
		duplicates += it.duplicates
		b.stats.countMerged(it.replaced, it.appended)
	}
	b.stats.accepted.Add(uint64(messages))
	b.stats.duplicates.Add(uint64(duplicates))
}

// messageOverhead is what a message counts beside its line.
const messageOverhead = 96

func (it *item) finish(err error) {
	it.err, it.finished = err, true
	it.done <- struct{}{}
}

// runDurably runs a script and waits until what it wrote is as safe as the options ask for. The error tells that this is not
// known. A connection of its own carries the call, since Redis answers nothing else on it meanwhile.
func (b *Broker) runDurably(ctx context.Context, s *script, call scriptCall) (reply rueidis.RedisResult, durable error) {
	begun := time.Now()
	_ = b.client.Dedicated(func(c rueidis.DedicatedClient) error {
		wait := b.waitCommand(c)
		replies := c.DoMulti(ctx, s.command(c, call), wait)
		if isUnknownScript(replies[0].Error()) {
			replies = c.DoMulti(ctx, s.again(c, call), b.waitCommand(c))
		}
		reply, durable = replies[0], b.checkWait(replies[1])
		return nil
	})
	b.store.called(begun, reply.Error())
	return reply, durable
}

func (b *Broker) waitCommand(c rueidis.DedicatedClient) rueidis.Completed {
	d := b.options.Durability
	timeout := ms(b.options.Timeout) * 3 / 4
	if d.AppendOnlyFile {
		return c.B().Waitaof().Numlocal(1).Numreplicas(int64(d.Replicas)).Timeout(timeout).Build()
	}
	return c.B().Wait().Numreplicas(int64(d.Replicas)).Timeout(timeout).Build()
}

func (b *Broker) checkWait(reply rueidis.RedisResult) error {
	d := b.options.Durability
	replicas, local := int64(0), int64(1)
	var err error
	if d.AppendOnlyFile {
		var both []int64
		if both, err = reply.AsIntSlice(); err == nil && len(both) == 2 {
			local, replicas = both[0], both[1]
		}
	} else {
		replicas, err = reply.AsInt64()
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w: redis: %w", broker.ErrOutcomeUnknown, err)
	case replicas < int64(d.Replicas) || local < 1:
		return fmt.Errorf("%w: redis: only %d of %d replicas have it in time", broker.ErrOutcomeUnknown, replicas, d.Replicas)
	}
	return nil
}

// PublishNow implements [broker.Broker]. Redis is another machine.
func (b *Broker) PublishNow(string, *broker.Message, broker.Limits) bool { return false }

// Publish implements [broker.Broker].
func (b *Broker) Publish(ctx context.Context, producer string, m *broker.Message, l broker.Limits) error {
	x, err := b.producerID(ctx, producer, 1)
	if err != nil {
		return err
	}
	it := b.newItem(x, []string{rueidis.BinaryString(encode(m, l.MaxMessage))}, &l)
	b.lanes[b.keys.scopeOf(x.partition())].submit(it)
	<-it.done
	return b.outcomes(ctx, []*item{it})[0].Err
}

// maxItem is how many messages an item has at most.
const maxItem = 1000

// PublishBatch implements [broker.Broker].
func (b *Broker) PublishBatch(ctx context.Context, producers []string, ms []*broker.Message, l broker.Limits) []broker.Outcome {
	begun := time.Now()
	encoded := make([]string, len(ms))
	for i, m := range ms {
		encoded[i] = rueidis.BinaryString(encode(m, l.MaxMessage))
	}
	outcomes := make([]broker.Outcome, len(producers))
	ids := make([]channelID, len(producers))
	for i, producer := range producers {
		ids[i], outcomes[i].Err = b.producerID(ctx, producer, len(ms))
	}
	hold := l.Hold
	for part := range slices.Chunk(encoded, maxItem) {
		l.Hold = max(0, hold-time.Since(begun))
		items, places := make([]*item, 0, len(ids)), make([]int, 0, len(ids))
		for i, x := range ids {
			if outcomes[i].Err == nil {
				items, places = append(items, b.newItem(x, part, &l)), append(places, i)
			}
		}
		b.submit(items)
		for i, outcome := range b.outcomes(ctx, items) {
			outcomes[places[i]].Accepted += outcome.Accepted
			outcomes[places[i]].Err = outcome.Err
		}
	}
	return outcomes
}

func (b *Broker) newItem(x channelID, ms []string, l *broker.Limits) *item {
	it := &item{x: x, ms: ms, limits: l, number: b.waiters.number(), begun: time.Now(), done: make(chan struct{}, 1)}
	for _, m := range ms {
		it.size += len(m)
		it.keyed = it.keyed || m[0]&1 == 1
		it.single = it.single || m[0] > 1 || len(m) > maxPushed
	}
	return it
}

// submit writes items, and returns when it knows what became of them. No more are queued at once than leave room for others. If
// Redis does not do any of these, submit gives up the rest.
func (b *Broker) submit(items []*item) {
	reached := true
	for some := range slices.Chunk(items, maxQueued/10) {
		if !reached {
			for _, it := range some {
				it.finish(errBusy)
			}
			continue
		}
		b.submitSome(some)
		reached = slices.ContainsFunc(some, func(it *item) bool {
			return !errors.Is(it.err, broker.ErrUnavailable) && !errors.Is(it.err, broker.ErrOutcomeUnknown)
		})
	}
}

func (b *Broker) submitSome(items []*item) {
	byLane := map[int][]*item{}
	for _, it := range items {
		scope := b.keys.scopeOf(it.x.partition())
		byLane[scope] = append(byLane[scope], it)
	}
	for scope, items := range byLane {
		b.lanes[scope].submit(items...)
	}
	for _, it := range items {
		<-it.done
	}
}
