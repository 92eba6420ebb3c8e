package memory

import (
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// counters is one shard of what a [Broker] counts. Each channel counts in one shard, so processors do not contend for
// the same counters. A counter only grows. What the Broker holds now is the difference of counters, so nobody has to
// visit all channels to know it.
type counters struct {
	accepted    atomic.Uint64    // messages that a channel has taken
	merged      [2]atomic.Uint64 // those of them that were merged with one before: replaced it, or were appended to it
	duplicates  atomic.Uint64    // messages that a channel dropped, because it had one with the same key
	redelivered atomic.Uint64    // messages that a reader was given again
	settled     atomic.Uint64
	skipped     atomic.Uint64    // how often a channel missed a message of a topic
	refused     [2]atomic.Uint64 // messages that found no room in time, by noRoom
	unroutable  atomic.Uint64    // messages whose channel was deleted while they waited
	withdrawn   atomic.Uint64    // messages that waited until their producer gave up, or the Broker was closed

	undelivered [broker.EndReasonCount]undelivered
	created     atomic.Uint64
	deleted     [broker.EndReasonCount]atomic.Uint64

	wait histogram // how long messages waited, of those that were accepted after a wait
	// delay is the time from a message's timestamp until a reader is given it for the first time. Its count is how many
	// messages were sent, each counted once.
	delay histogram
	life  histogram // how long deleted channels had lived

	_ [64]byte // keeps the next shard off this cache line
}

// undelivered counts the messages that channels held when they were deleted.
type undelivered struct {
	pending, inFlight atomic.Uint64
}

// noRoom says why there was no room for a message.
type noRoom int

const (
	channelFull noRoom = iota
	memoryFull
)

// counterShards is how many shards of counters a Broker has.
const counterShards = 16

// Bounds of the histograms. A last bucket has all longer durations.
var (
	waitBounds = []time.Duration{
		time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
		500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second,
	}
	delayBounds = []time.Duration{
		100 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond,
		50 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, time.Second, 5 * time.Second,
		20 * time.Second, time.Minute,
	}
	lifeBounds = []time.Duration{
		10 * time.Second, 30 * time.Second, time.Minute, 80 * time.Second, 2 * time.Minute, 160 * time.Second, 5 * time.Minute,
		320 * time.Second, 640 * time.Second, 15 * time.Minute, 1280 * time.Second, 2560 * time.Second, time.Hour,
		5120 * time.Second, 10240 * time.Second, 4 * time.Hour, 20480 * time.Second, 12 * time.Hour, 24 * time.Hour,
		7 * 24 * time.Hour,
	}
)

// maxBuckets is the number of bounds of the longest histogram, plus one.
const maxBuckets = 21

// A histogram counts durations by their size.
type histogram struct {
	counts [maxBuckets]atomic.Uint64
	sum    atomic.Int64 // nanoseconds
}

// observe counts n equal durations.
func (h *histogram) observe(bounds []time.Duration, d time.Duration, n int) {
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	h.counts[i].Add(uint64(n)) //nolint:gosec // not negative
	h.sum.Add(int64(d) * int64(n))
}

// histogramOf adds up one histogram of all shards.
func (b *Broker) histogramOf(bounds []time.Duration, of func(*counters) *histogram) broker.Histogram {
	h := broker.Histogram{Bounds: bounds, Cumulative: make([]uint64, len(bounds))}
	for shard := range b.counters {
		part := of(&b.counters[shard])
		var count uint64
		for i := range bounds {
			count += part.counts[i].Load()
			h.Cumulative[i] += count
		}
		h.Count += count + part.counts[len(bounds)].Load()
		h.Sum += time.Duration(part.sum.Load())
	}
	return h
}

// Stats implements [broker.Statser]. It takes no lock.
func (b *Broker) Stats() broker.Stats {
	s := broker.Stats{
		Channels:      b.channelCount(),
		Readers:       int(b.readers.Load()),
		HeldProducers: int(b.waiters.Load()),
		BufferedBytes: b.budget.buffered.Load(),
		HeldBytes:     b.budget.held.Load(),
		PublishWait:   b.histogramOf(waitBounds, func(c *counters) *histogram { return &c.wait }),
		ChannelLife:   b.histogramOf(lifeBounds, func(c *counters) *histogram { return &c.life }),
	}
	sum := func(of func(*counters) *atomic.Uint64) (n uint64) {
		for i := range b.counters {
			n += of(&b.counters[i]).Load()
		}
		return n
	}
	// Channels go on counting meanwhile. So read a counter before any other that is never smaller than it. Then no
	// difference is negative.
	var lostInFlight, lostPending uint64
	for _, reason := range broker.EndReasons {
		inFlight := sum(func(c *counters) *atomic.Uint64 { return &c.undelivered[reason].inFlight })
		pending := sum(func(c *counters) *atomic.Uint64 { return &c.undelivered[reason].pending })
		s.Undelivered[reason] = inFlight + pending
		lostInFlight += inFlight
		lostPending += pending
		s.Deleted[reason] = sum(func(c *counters) *atomic.Uint64 { return &c.deleted[reason] })
	}
	s.Settled = sum(func(c *counters) *atomic.Uint64 { return &c.settled })
	s.Redelivered = sum(func(c *counters) *atomic.Uint64 { return &c.redelivered })
	s.DeliveryDelay = b.histogramOf(delayBounds, func(c *counters) *histogram { return &c.delay })
	sent := s.DeliveryDelay.Count
	taken := sent + b.restored.Load()
	s.Replaced = sum(func(c *counters) *atomic.Uint64 { return &c.merged[0] })
	s.Appended = sum(func(c *counters) *atomic.Uint64 { return &c.merged[1] })
	s.Accepted = sum(func(c *counters) *atomic.Uint64 { return &c.accepted })
	s.Duplicates = sum(func(c *counters) *atomic.Uint64 { return &c.duplicates })
	s.RefusedFull = sum(func(c *counters) *atomic.Uint64 { return &c.refused[channelFull] })
	s.RefusedMemory = sum(func(c *counters) *atomic.Uint64 { return &c.refused[memoryFull] })
	s.Unroutable = b.unroutable.Load() + sum(func(c *counters) *atomic.Uint64 { return &c.unroutable })
	s.Withdrawn = sum(func(c *counters) *atomic.Uint64 { return &c.withdrawn })
	s.Skipped = sum(func(c *counters) *atomic.Uint64 { return &c.skipped })
	b.topics.stats(&s)
	s.Created = sum(func(c *counters) *atomic.Uint64 { return &c.created })
	s.Sent = sent + s.Redelivered
	s.InFlight = taken - s.Settled - lostInFlight
	s.Pending = s.Accepted - s.Replaced - s.Appended - taken - lostPending
	// Channels observe only messages that waited, to save time. Those that did not wait belong in every bucket.
	immediate := s.Accepted - s.PublishWait.Count
	for i := range s.PublishWait.Cumulative {
		s.PublishWait.Cumulative[i] += immediate
	}
	s.PublishWait.Count = s.Accepted
	return s
}
