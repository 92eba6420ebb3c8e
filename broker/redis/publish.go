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
	begun  time.Time

	// The outcome, once done has a value.
	status               itemStatus
	accepted, duplicates int
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
	maxBatch      = 100       // items in one call, which takes Redis less than a millisecond
	maxBatchBytes = 256 << 10 // of messages in one call, unless a single item is larger
	maxCalls      = 2         // calls at once
	minSecondCall = 32        // items that must wait before there is a second call at once: larger calls cost Redis less
	maxSyncCalls  = 4         // calls at once that wait for replicas or for a disk
	maxQueued     = 10_000    // items that wait for their call
	maxUnpacked   = 2_000     // messages of one call: Lua cannot unpack many more
)

// errBusy is the error for a write that finds too many others waiting for Redis.
var errBusy = fmt.Errorf("%w: redis: too many writes wait for it: it is too slow or cannot be reached", broker.ErrUnavailable)

// A lane collects the writes to one scope while others are on their way to Redis. So under load one call carries the messages
// of many producers, and an idle lane adds no delay.
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
		n, size, messages := 0, 0, 0
		for n < len(l.queue) && n < maxBatch {
			it := l.queue[n]
			size += it.size
			messages += len(it.ms)
			if n > 0 && (size > maxBatchBytes || messages > maxUnpacked) {
				break
			}
			n++
		}
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

// publishArgs is how many arguments come before the messages: see lua/publish.lua.
const publishArgs = 9

// publishCall returns the call that writes items. Those of one channel stand together.
func (b *Broker) publishCall(scope int, batch []*item) scriptCall {
	keys := make([]string, 1, 2*len(batch)+1)
	keys[0] = b.keys.counters(scope)
	args := make([]string, publishArgs, publishArgs+len(batch))
	items, numbers := make(packer, 0, 5*len(batch)), make(packer, 0, 6*len(batch))
	var limits []itemLimits
	size, keyed, shared := 0, false, false
	var last *item // whose messages are the last of args
	for i, it := range batch {
		if i == 0 || it.x != batch[i-1].x {
			keys = append(keys, b.keys.key('s', it.x))
		}
		if last == nil || len(it.ms) == 0 || len(last.ms) != len(it.ms) || &last.ms[0] != &it.ms[0] {
			args = append(args, it.ms...)
			last = it
		} else {
			shared = true
		}
		l := itemLimits{int64(it.limits.Buffer), ms(it.limits.Hold), min(it.limits.MaxMemory, maxMemory)}
		at := slices.Index(limits, l)
		if at < 0 {
			at, limits = len(limits), append(limits, l)
		}
		follows := i+1 < len(batch) && batch[i+1].x == it.x
		items = items.put(1, int64(2*at)+one(follows)).put(2, int64(len(args)-len(it.ms)+1)).put(2, int64(len(it.ms)))
		numbers = appendNumber(numbers, it.number, 6)
		size += it.size + len(it.ms)*(messageOverhead-messageHead)
		keyed = keyed || it.keyed
	}
	for i, it := range batch {
		if i == 0 || it.x != batch[i-1].x {
			keys = append(keys, b.keys.key('q', it.x))
		}
	}
	messages := args[publishArgs:]
	args[0], args[1], args[2] = b.keys.pushPrefix(scope), b.node, rueidis.BinaryString(items)
	args[3], args[4] = rueidis.BinaryString(packLimits(limits)), rueidis.BinaryString(numbers)
	args[5], args[6], args[7], args[8] = text(b.ledger.elsewhere(scope).bytes), text(int64(size)), "0", "0"
	if shared {
		args[8] = text(int64(len(messages)))
	}
	if keyed {
		args[7] = text(int64(len(messages)))
		for _, m := range messages {
			args = append(args, keyOf(m))
		}
	}
	return scriptCall{keys, args}
}

// itemLimits is what lua/publish.lua knows of the limits of items: the buffer, the longest wait, and the memory.
type itemLimits [3]int64

func packLimits(limits []itemLimits) packer {
	p := make(packer, 0, 16*len(limits))
	for _, l := range limits {
		p = p.put(4, l[0]).put(5, l[1]).put(7, l[2])
	}
	return p
}

// byChannel puts the items of each channel together, in their order.
func byChannel(batch []*item) []*item {
	first := make(map[channelID]int, len(batch))
	for i, it := range batch {
		if _, ok := first[it.x]; !ok {
			first[it.x] = i
		}
	}
	if len(first) < len(batch) {
		slices.SortStableFunc(batch, func(a, b *item) int { return first[a.x] - first[b.x] })
	}
	return batch
}

// maxMemory is the largest memory limit that Lua can count exactly.
const maxMemory = 1 << 50

// ms returns a duration in milliseconds, rounded up.
func ms(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// readOutcomes reads the reply of lua/publish.lua into items.
func readOutcomes(reply rueidis.RedisMessage, batch []*item) {
	const size = 5
	outcomes, err := reply.ToString()
	for i, it := range batch {
		switch {
		case err != nil: // the reply is a number: all is taken
			it.accepted = len(it.ms)
		case len(outcomes) < (i+1)*size:
			it.err = errData
		default:
			o := outcomes[i*size : (i+1)*size]
			it.status, it.accepted, it.duplicates = itemStatus(o[0]), int(number(o[1:3])), int(number(o[3:5])) //nolint:gosec // 2 bytes
		}
	}
}

// countPublished counts what a call has written.
func (b *Broker) countPublished(batch []*item) {
	messages, duplicates := 0, 0
	for _, it := range batch {
		messages += it.accepted - it.duplicates
		duplicates += it.duplicates
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
	it := b.newItem(x, []string{rueidis.BinaryString(encode(m))}, &l)
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
		encoded[i] = rueidis.BinaryString(encode(m))
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
		it.keyed = it.keyed || m[0] == 1
	}
	return it
}

// submit writes items, and returns when it knows what became of them.
func (b *Broker) submit(items []*item) {
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
