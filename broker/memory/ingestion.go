package memory

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/netturn"
)

const (
	// maxHeldBytes is how many bytes of messages an ingestion holds back before Write waits.
	maxHeldBytes = 1 << 20
	// maxDone is how many finished lines an ingestion keeps behind one that is not finished. It keeps more only while
	// at most half of all its lines are finished.
	maxDone = 64
)

// Ingest implements [broker.Broker].
func (b *Broker) Ingest(l broker.Limits) broker.Ingestion {
	return &ingestion{broker: b, limits: l, freed: make(chan struct{}, 1), pace: netturn.Every(yieldReaders)}
}

// An ingestion is the [broker.Ingestion] of a [Broker].
type ingestion struct {
	broker    *Broker
	limits    broker.Limits
	immediate int // messages that a channel has taken at once
	pace      netturn.Pace
	freed     chan struct{} // receives a value when a line is finished

	mu            sync.Mutex  // may be taken with a channel's lock held; no channel's lock is taken with it held
	held          []*heldLine // in the order of Write; some may be done
	done          int         // how many of held are done
	timer         *time.Timer // fires when the oldest of held is due, or earlier
	heldBytes     int64       // of the messages that are held back
	admitted      int         // messages that were held back, and then taken
	uncommitted   []uncommitted
	lost          int // messages that a channel has taken, and that may not be durable
	failures      []broker.IngestFailure
	failed        int // all failures
	refusedMemory int // failures with ErrMemoryLimit
}

// A heldLine is a message that is held back. It owns its waiter.
type heldLine struct {
	waiter

	ingestion *ingestion
	number    int
	producer  string
	message   [1]*broker.Message
	size      int64
	due       time.Time
	done      bool
}

// Write implements [broker.Ingestion].
func (in *ingestion) Write(ctx context.Context, number int, producer []byte, m *broker.Message) error {
	c, err := in.broker.route(string(producer), 1)
	if err != nil {
		in.Fail(number, string(producer), err)
		return nil
	}
	if ok, woken, commit := c.publishNow(m, &in.limits); ok {
		in.immediate++
		if woken {
			in.pace.Woke(1)
		}
		if commit != nil {
			in.mu.Lock()
			in.await(number, string(producer), commit)
			in.mu.Unlock()
		}
		return nil
	}
	line := &heldLine{
		ingestion: in, number: number, producer: string(producer),
		message: [1]*broker.Message{m}, size: m.Size(), due: time.Now().Add(in.limits.Hold),
	}
	line.waiter = waiter{channel: c, ms: line.message[:], limits: in.limits, owner: line}
	in.hold(line)
	if c.publish(&line.waiter) {
		line.finished()
	}
	for in.bytes() > maxHeldBytes {
		select {
		case <-in.freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// hold adds a line. The line counts as held back until it is finished.
func (in *ingestion) hold(line *heldLine) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.held = append(in.held, line)
	in.heldBytes += line.size
	if in.timer == nil {
		in.timer = time.AfterFunc(in.limits.Hold, in.expire)
	} else if len(in.held) == 1 {
		in.timer.Reset(in.limits.Hold)
	}
}

// bytes returns how many bytes of messages are held back.
func (in *ingestion) bytes() int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.heldBytes
}

// finished implements [owner]. The line is not held back any more.
func (line *heldLine) finished() {
	in := line.ingestion
	in.mu.Lock()
	defer in.mu.Unlock()
	line.done = true
	line.message[0], line.ms = nil, nil // if the message is still needed, the channel has it
	in.heldBytes -= line.size
	in.done++
	if line.err == nil {
		in.admitted++
		if line.commit != nil {
			in.await(line.number, line.producer, line.commit)
		}
	} else {
		in.fail(line.number, line.producer, line.err)
	}
	for len(in.held) > 0 && in.held[0].done {
		in.held[0] = nil
		in.held = in.held[1:]
		in.done--
	}
	if in.done > maxDone && in.done > len(in.held)/2 {
		in.held = slices.DeleteFunc(in.held, func(line *heldLine) bool { return line.done })
		in.done = 0
	}
	select {
	case in.freed <- struct{}{}:
	default:
	}
}

// expire withdraws the lines that have been held back for too long. If such a line fails, expire also withdraws the
// lines behind it for the same channel, which would only take its place.
func (in *ingestion) expire() {
	now, pause := time.Now(), time.Duration(0)
	skipped := map[*channel]bool{}
	for _, line := range in.heldLines() {
		func() {
			defer guard.Recover(guard.Broker, func() { pause = time.Second })
			switch {
			case skipped[line.channel]:
				line.channel.withdraw(&line.waiter, broker.ErrSkipped)
			case !line.due.After(now):
				skipped[line.channel] = line.channel.withdraw(&line.waiter, broker.ErrTimeout)
			}
		}()
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.held) > 0 {
		in.timer.Reset(max(time.Until(in.held[0].due), pause))
	}
}

// heldLines returns the lines that are held back, oldest first.
func (in *ingestion) heldLines() []*heldLine {
	in.mu.Lock()
	defer in.mu.Unlock()
	lines := make([]*heldLine, 0, len(in.held))
	for _, line := range in.held {
		if !line.done {
			lines = append(lines, line)
		}
	}
	return lines
}

// Fail implements [broker.Ingestion].
func (in *ingestion) Fail(number int, producer string, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.fail(number, producer, err)
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
	for in.bytes() > 0 && ctx.Err() == nil {
		select {
		case <-in.freed:
		case <-ctx.Done():
		}
	}
	for _, line := range in.heldLines() {
		line.channel.withdraw(&line.waiter, ctx.Err())
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.commit(ctx)
	if in.timer != nil {
		in.timer.Stop()
	}
	slices.SortFunc(in.failures, func(a, b broker.IngestFailure) int { return cmp.Compare(a.Number, b.Number) })
	return broker.IngestResult{
		Written: in.immediate + in.admitted - in.lost, Failures: in.failures, FailuresTotal: in.failed, RefusedMemory: in.refusedMemory,
	}
}

// An uncommitted is a message that a channel has taken, and that is not known to be durable.
type uncommitted struct {
	number   int
	producer string
	commit   *journal.Commit
}

// await notes a message that is not durable yet. The lock is held.
func (in *ingestion) await(number int, producer string, commit *journal.Commit) {
	in.uncommitted = append(in.uncommitted, uncommitted{number, producer, commit})
	if len(in.uncommitted)%256 == 0 {
		in.prune()
	}
}

// prune forgets the oldest messages that are durable by now. The lock is held.
func (in *ingestion) prune() {
	n := 0
	for n < len(in.uncommitted) && in.uncommitted[n].commit.IsDurable() {
		n++
	}
	in.uncommitted = slices.Delete(in.uncommitted, 0, n)
}

// commit waits until all messages are durable. The lock is held: nothing is held back any more, so nobody waits for it.
func (in *ingestion) commit(ctx context.Context) {
	for _, u := range in.uncommitted {
		if err := u.commit.Wait(ctx); err != nil {
			in.lost++
			in.fail(u.number, u.producer, err)
		}
	}
}
