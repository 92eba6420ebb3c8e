package memory

import (
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/histogram"
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

	wait histogram.Histogram // how long messages waited, of those that were accepted after a wait
	// delay is the time from a message's timestamp until a reader is given it for the first time. Its count is how many
	// messages were sent, each counted once.
	delay histogram.Histogram
	life  histogram.Histogram // how long deleted channels had lived

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

// histogramOf adds up one histogram of all shards.
func (b *Broker) histogramOf(bounds []time.Duration, of func(*counters) *histogram.Histogram) broker.Histogram {
	var parts [counterShards]*histogram.Histogram
	for shard := range b.counters {
		parts[shard] = of(&b.counters[shard])
	}
	return histogram.Sum(bounds, parts[:]...)
}

// Stats implements [broker.Statser]. It takes no lock.
func (b *Broker) Stats() broker.Stats {
	s := broker.Stats{
		Channels:      b.channelCount(),
		Readers:       int(b.readers.Load()),
		HeldProducers: int(b.waiters.Load()),
		BufferedBytes: b.budget.buffered.Load(),
		HeldBytes:     b.budget.held.Load(),
		PublishWait:   b.histogramOf(histogram.Wait, func(c *counters) *histogram.Histogram { return &c.wait }),
		ChannelLife:   b.histogramOf(histogram.Life, func(c *counters) *histogram.Histogram { return &c.life }),
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
	s.DeliveryDelay = b.histogramOf(histogram.Delay, func(c *counters) *histogram.Histogram { return &c.delay })
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
