package memory

import (
	"cmp"
	"context"
	"errors"
	"github.com/caddy-megaphone/megaphone/broker"
	"slices"
	"sync"
	"time"
)

const (
	// maxHeldBack is how many bytes of messages an ingestion holds back before Write waits.
	maxHeldBack = 1 << 20
	// maxDone is how many lines that are done it keeps behind one that is not, if more than half are.
	maxDone = 64
)

// Ingest implements [broker.Broker].
func (r *Broker) Ingest(l broker.Limits) broker.Ingestion {
	return &ingestion{registry: r, limits: l, freed: make(chan struct{}, 1)}
}

// An ingestion is an [broker.Ingestion] to the channels of a [Broker].
type ingestion struct {
	registry *Broker
	limits   broker.Limits
	direct   int           // messages that were taken at once
	freed    chan struct{} // receives a value when less is held back

	mu       sync.Mutex  // taken with a channel's lock held, never the other way round
	held     []*heldLine // in the order of their numbers; some may be done
	done     int         // how many of them are
	timer    *time.Timer // runs out for the oldest of held
	back     int64       // bytes held back
	admitted int         // messages that were held back and then taken
	failures []broker.IngestFailure
	failed   int
	refused  int // for want of memory
}

// A heldLine is a message that is held back.
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

func (in *ingestion) Write(ctx context.Context, number int, producer []byte, m *broker.Message) error {
	c, err := in.registry.lookup(string(producer), producerKind)
	if err != nil {
		in.Fail(number, string(producer), err)
		return nil
	}
	if c.publishNow(m, in.limits) {
		in.direct++
		return nil
	}
	line := &heldLine{
		ingestion: in, number: number, producer: string(producer),
		message: [1]*broker.Message{m}, size: m.Size(), due: time.Now().Add(in.limits.Hold),
	}
	line.waiter = waiter{channel: c, ms: line.message[:], limits: in.limits, call: line}
	in.hold(line)
	if c.publish(&line.waiter) {
		line.finished()
	}
	for in.heldBack() > maxHeldBack {
		select {
		case <-in.freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// hold notes a line that may be held back from now on.
func (in *ingestion) hold(line *heldLine) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.held = append(in.held, line)
	in.back += line.size
	if in.timer == nil {
		in.timer = time.AfterFunc(in.limits.Hold, in.expire)
	} else if len(in.held) == 1 {
		in.timer.Reset(in.limits.Hold)
	}
}

func (in *ingestion) heldBack() int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.back
}

// finished is told that the line is held back no more.
func (line *heldLine) finished() {
	in := line.ingestion
	in.mu.Lock()
	defer in.mu.Unlock()
	line.done = true
	line.message[0], line.ms = nil, nil // the channel's, if anybody's
	in.back -= line.size
	in.done++
	if line.err == nil {
		in.admitted++
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

// expire withdraws the lines that have been held back for too long, and with each those that wait behind it for
// the same channel: they would only be in its place.
func (in *ingestion) expire() {
	now := time.Now()
	skipped := map[*channel]bool{}
	for _, line := range in.heldLines() {
		switch {
		case skipped[line.channel]:
			line.channel.withdraw(&line.waiter, broker.ErrSkipped)
		case !line.due.After(now):
			skipped[line.channel] = line.channel.withdraw(&line.waiter, broker.ErrTimeout)
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.held) > 0 {
		in.timer.Reset(time.Until(in.held[0].due))
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

func (in *ingestion) Fail(number int, producer string, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.fail(number, producer, err)
}

func (in *ingestion) fail(number int, producer string, err error) {
	in.failed++
	if errors.Is(err, broker.ErrMemoryLimit) {
		in.refused++
	}
	if len(in.failures) < broker.MaxIngestFailures {
		in.failures = append(in.failures, broker.IngestFailure{Number: number, Producer: producer, Err: err})
	}
}

func (in *ingestion) Finish(ctx context.Context) broker.IngestResult {
	for in.heldBack() > 0 && ctx.Err() == nil {
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
	if in.timer != nil {
		in.timer.Stop()
	}
	slices.SortFunc(in.failures, func(a, b broker.IngestFailure) int { return cmp.Compare(a.Number, b.Number) })
	return broker.IngestResult{
		Written: in.direct + in.admitted, Failures: in.failures, FailuresTotal: in.failed, RefusedMemory: in.refused,
	}
}
