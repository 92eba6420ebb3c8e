package megaphone

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// An Ingestion is one producer's stream of writes to many channels (protocol.md 2.6). A channel without room holds
// back its own messages only. It is for one goroutine at a time.
type Ingestion interface {
	// Write appends a message to the channel of a producer address, as [Broker.Publish] does, but does not wait for
	// room. It waits only while so much is held back as the ingestion may, and then fails with the error of ctx
	// if that ends. What becomes of the message is told by Finish, under the number that it is given here.
	Write(ctx context.Context, number int, producer []byte, m *Message) error

	// Fail notes a message that could not be written.
	Fail(number int, producer string, err error)

	// Finish waits until nothing is held back any more, each message for the hold time at most, and tells what became of
	// all. If ctx ends, what is held back is withdrawn. It must be called, once.
	Finish(ctx context.Context) IngestResult
}

// An IngestResult says what became of the messages of an [Ingestion].
type IngestResult struct {
	// Written is how many messages the channels have taken.
	Written int
	// Failures are those that they have not, by number; at most [MaxIngestFailures] are listed.
	Failures []IngestFailure
	// FailuresTotal counts all failures, RefusedMemory those among them with [ErrMemoryLimit].
	FailuresTotal, RefusedMemory int
}

// An IngestFailure is a message that was not written. Err is as for [Broker.Publish], or [ErrSkipped].
type IngestFailure struct {
	Number   int
	Producer string
	Err      error
}

const (
	// MaxIngestFailures is how many failures of an ingestion are listed.
	MaxIngestFailures = 1000
	// maxHeldBack is how many bytes of messages an ingestion holds back before Write waits.
	maxHeldBack = 1 << 20
	// maxDone is how many lines that are done it keeps behind one that is not, if more than half are.
	maxDone = 64
)

// Ingest implements [Broker].
func (r *Registry) Ingest(l Limits) Ingestion {
	return &ingestion{registry: r, limits: l, freed: make(chan struct{}, 1)}
}

// An ingestion is an [Ingestion] to the channels of a [Registry].
type ingestion struct {
	registry *Registry
	limits   Limits
	direct   int           // messages that were taken at once
	freed    chan struct{} // receives a value when less is held back

	mu       sync.Mutex  // taken with a channel's lock held, never the other way round
	held     []*heldLine // in the order of their numbers; some may be done
	done     int         // how many of them are
	timer    *time.Timer // runs out for the oldest of held
	back     int64       // bytes held back
	admitted int         // messages that were held back and then taken
	failures []IngestFailure
	failed   int
	refused  int // for want of memory
}

// A heldLine is a message that is held back.
type heldLine struct {
	publication

	ingestion *ingestion
	number    int
	producer  string
	message   [1]*Message
	size      int64
	due       time.Time
	done      bool
}

func (in *ingestion) Write(ctx context.Context, number int, producer []byte, m *Message) error {
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
		message: [1]*Message{m}, size: m.size(), due: time.Now().Add(in.limits.Hold),
	}
	line.publication = publication{channel: c, ms: line.message[:], limits: in.limits, call: line}
	in.hold(line)
	if c.publish(&line.publication) {
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
			line.channel.withdraw(&line.publication, ErrSkipped)
		case !line.due.After(now):
			skipped[line.channel] = line.channel.withdraw(&line.publication, ErrTimeout)
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
	if errors.Is(err, ErrMemoryLimit) {
		in.refused++
	}
	if len(in.failures) < MaxIngestFailures {
		in.failures = append(in.failures, IngestFailure{number, producer, err})
	}
}

func (in *ingestion) Finish(ctx context.Context) IngestResult {
	for in.heldBack() > 0 && ctx.Err() == nil {
		select {
		case <-in.freed:
		case <-ctx.Done():
		}
	}
	for _, line := range in.heldLines() {
		line.channel.withdraw(&line.publication, ctx.Err())
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.timer != nil {
		in.timer.Stop()
	}
	slices.SortFunc(in.failures, func(a, b IngestFailure) int { return cmp.Compare(a.Number, b.Number) })
	return IngestResult{
		Written: in.direct + in.admitted, Failures: in.failures, FailuresTotal: in.failed, RefusedMemory: in.refused,
	}
}
