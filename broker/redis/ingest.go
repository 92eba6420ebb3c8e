package redis

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

const (
	// maxHeldBytes is how many bytes of messages an ingestion keeps before Write waits.
	maxHeldBytes = 1 << 20
	// maxFlush is how many bytes of messages an ingestion writes at once.
	maxFlush = 256 << 10
)

// Ingest implements [broker.Broker].
func (b *Broker) Ingest(l broker.Limits) broker.Ingestion {
	return &ingestion{broker: b, limits: l, changed: make(chan struct{}, 1), stop: make(chan struct{}), holding: map[channelID][]*group{}}
}

// An ingestion is the [broker.Ingestion] of a [Broker]. It writes what has come while the lines before were on their way, so no
// line costs a round trip. Lines of one channel that are written together are one item.
type ingestion struct {
	broker  *Broker
	limits  broker.Limits
	changed chan struct{} // receives a value when lines are finished
	stop    chan struct{} // closed when what is held back is to be withdrawn
	groups  sync.WaitGroup

	mu            sync.Mutex
	reason        error  // why what is held back is withdrawn; set before stop is closed
	pending       []line // not written yet
	bytes         int64  // of lines that are not finished
	flushing      bool
	holding       map[channelID][]*group // by channel, those that are held back, in order
	written       int
	failures      []broker.IngestFailure
	failed        int
	refusedMemory int
}

type line struct {
	number   int
	producer string
	x        channelID
	message  string
}

// A group is the lines of one channel that are written together.
type group struct {
	item  *item
	lines []line
	skip  chan struct{} // closed when a line before it was refused
	first chan struct{} // closed when nothing before it is held back
}

// Write implements [broker.Ingestion].
func (in *ingestion) Write(ctx context.Context, number int, producer []byte, m *broker.Message) error {
	address := string(producer)
	x, err := in.broker.producerID(ctx, address, 1)
	if err != nil {
		in.Fail(number, address, err)
		return nil
	}
	in.add(line{number, address, x, rueidis.BinaryString(encode(m, in.limits.MaxMessage))})
	for in.heldBytes() > maxHeldBytes {
		select {
		case <-in.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (in *ingestion) add(l line) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.pending = append(in.pending, l)
	in.bytes += int64(len(l.message))
	if !in.flushing {
		in.flushing = true
		guard.Go(guard.Broker, in.flush)
	}
}

func (in *ingestion) heldBytes() int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.bytes
}

// flush writes lines until there are none.
func (in *ingestion) flush() {
	for {
		in.mu.Lock()
		if in.reason != nil {
			in.dropPending()
		}
		n, size := 0, 0
		for n < len(in.pending) && (n == 0 || n < maxItem && size+len(in.pending[n].message) <= maxFlush) {
			size += len(in.pending[n].message)
			n++
		}
		lines := in.pending[:n:n]
		if in.pending = in.pending[n:]; len(in.pending) == 0 {
			in.pending = nil
		}
		if n == 0 {
			in.flushing = false
			in.mu.Unlock()
			in.notify()
			return
		}
		in.mu.Unlock()
		in.write(lines)
	}
}

// write writes lines, and returns when it knows what became of them.
func (in *ingestion) write(lines []line) {
	var groups []*group
	noted := 0 // of the groups
	defer guard.Recover(guard.Broker, func() {
		if groups == nil {
			groups = []*group{{lines: lines, item: new(item)}}
		}
		for _, g := range groups[noted:] {
			in.finish(g, broker.Outcome{Err: errPanicked})
		}
	})
	groups = in.group(lines)
	items := make([]*item, len(groups))
	for i, g := range groups {
		items[i] = g.item
	}
	in.broker.submit(items)
	for _, g := range groups {
		in.submitted(g)
		noted++
	}
}

// dropPending gives up the lines that are not written yet. The lock is held.
func (in *ingestion) dropPending() {
	for _, l := range in.pending {
		in.bytes -= int64(len(l.message))
		in.fail(l.number, l.producer, in.reason)
	}
	in.pending = nil
}

// group puts the lines of each channel together, in order.
func (in *ingestion) group(lines []line) []*group {
	var groups []*group
	byChannel := map[channelID]*group{}
	for _, l := range lines {
		g, ok := byChannel[l.x]
		if !ok {
			g = &group{skip: make(chan struct{}), first: make(chan struct{})}
			byChannel[l.x] = g
			groups = append(groups, g)
		}
		g.lines = append(g.lines, l)
	}
	for _, g := range groups {
		ms := make([]string, len(g.lines))
		for i, l := range g.lines {
			ms[i] = l.message
		}
		g.item = in.broker.newItem(g.lines[0].x, ms, &in.limits)
	}
	return groups
}

// submitted takes note of what has become of a group. If it is held back, a goroutine waits for it.
func (in *ingestion) submitted(g *group) {
	b, it := in.broker, g.item
	if it.err != nil || it.status != itemHeld {
		in.finish(g, broker.Outcome{Accepted: it.accepted, Err: b.refusal(it)})
		return
	}
	call := b.waiters.add(it)
	in.mu.Lock()
	in.holding[it.x] = append(in.holding[it.x], g)
	if len(in.holding[it.x]) == 1 {
		close(g.first)
	}
	in.mu.Unlock()
	in.groups.Go(func() {
		defer guard.Recover(guard.Broker,
			func() { in.release(g, true) }, func() { in.finish(g, broker.Outcome{Err: errPanicked}) })
		outcome := in.await(call, g)
		b.waiters.remove(call)
		in.release(g, outcome.Err != nil)
		in.finish(g, outcome)
	})
}

// await waits until a group gets in, its time is over, or it is to be withdrawn.
func (in *ingestion) await(call *waiter, g *group) broker.Outcome {
	b := in.broker
	timer := time.NewTimer(time.Until(g.item.begun.Add(g.item.hold())))
	defer timer.Stop()
	select {
	case n := <-call.notes:
		return b.noted(g.item, n)
	case <-g.skip:
		return b.withdraw(call, broker.ErrSkipped)
	case <-in.stop:
		return b.withdraw(call, in.reason)
	case <-b.closing:
		return b.withdraw(call, broker.ErrClosed)
	case <-timer.C:
	}
	select { // what is before it has had its time too, and may be about to be refused
	case n := <-call.notes:
		return b.noted(g.item, n)
	case <-g.skip:
		return b.withdraw(call, broker.ErrSkipped)
	case <-g.first:
		return b.withdraw(call, broker.ErrTimeout)
	}
}

// release takes a group out of those that are held back. If it has failed, those behind it would only take its place.
func (in *ingestion) release(g *group, failed bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	rest := in.holding[g.item.x]
	at := slices.Index(rest, g)
	if failed {
		for _, behind := range rest[at+1:] {
			select {
			case <-behind.skip:
			default:
				close(behind.skip)
			}
		}
	}
	if rest = slices.Delete(rest, at, at+1); len(rest) == 0 {
		delete(in.holding, g.item.x)
		return
	}
	in.holding[g.item.x] = rest
	if at == 0 && !failed {
		close(rest[0].first)
	}
}

// finish notes the outcome of a group.
func (in *ingestion) finish(g *group, outcome broker.Outcome) {
	in.mu.Lock()
	in.written += outcome.Accepted
	for i, l := range g.lines {
		in.bytes -= int64(len(l.message))
		if i < outcome.Accepted {
			continue
		}
		err := outcome.Err
		if i > outcome.Accepted && g.item.status == itemHeld && errors.Is(err, broker.ErrTimeout) {
			err = broker.ErrSkipped
		}
		in.fail(l.number, l.producer, err)
	}
	in.mu.Unlock()
	in.notify()
}

func (in *ingestion) notify() {
	select {
	case in.changed <- struct{}{}:
	default:
	}
}

// Fail implements [broker.Ingestion].
func (in *ingestion) Fail(number int, producer string, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.fail(number, strings.Clone(producer), err)
}

// fail notes a failure. The lock is held.
func (in *ingestion) fail(number int, producer string, err error) {
	in.failed++
	if errors.Is(err, broker.ErrMemoryLimit) {
		in.refusedMemory++
	}
	if len(in.failures) < broker.MaxIngestFailures {
		in.failures = append(in.failures, broker.NewIngestFailure(number, producer, err))
	}
}

// Finish implements [broker.Ingestion].
func (in *ingestion) Finish(ctx context.Context) broker.IngestResult {
	for in.unfinished() && ctx.Err() == nil {
		select {
		case <-in.changed:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		in.mu.Lock()
		in.reason = err
		in.mu.Unlock()
		close(in.stop)
	}
	for in.isFlushing() {
		<-in.changed // a call is on its way, which takes no longer than its timeout
	}
	in.groups.Wait()
	in.mu.Lock()
	defer in.mu.Unlock()
	slices.SortStableFunc(in.failures, func(a, b broker.IngestFailure) int { return cmp.Compare(a.Number, b.Number) })
	return broker.IngestResult{
		Written: in.written, Failures: in.failures, FailuresTotal: in.failed, RefusedMemory: in.refusedMemory,
	}
}

func (in *ingestion) unfinished() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.bytes > 0 || in.flushing
}

func (in *ingestion) isFlushing() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.flushing
}
