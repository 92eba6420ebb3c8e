package memory

import (
	"github.com/caddy-megaphone/megaphone/broker"
	"sync/atomic"
	"time"
)

// A counters counts what happens in a part of a registry's channels. Each channel counts in one of several tallies,
// so that processors do not contend for the counters. Counters only grow; what there is now is the difference of
// some of them, so that nobody has to walk over the channels to know it.
type counters struct {
	accepted    atomic.Uint64 // messages that a channel has taken
	duplicates  atomic.Uint64 // messages that were dropped since the channel had them, by their key
	redelivered atomic.Uint64 // messages that a reader was given again
	settled     atomic.Uint64
	refused     [2]atomic.Uint64 // messages for which there was no room in time: see noRoom

	undelivered [broker.EndReasonCount]undelivered
	created     atomic.Uint64
	deleted     [broker.EndReasonCount]atomic.Uint64

	wait  histogram // of accepted messages that had to wait, from the call to the channel
	delay histogram // of messages, from their timestamp until a reader is given them for the first time; counts those too
	life  histogram // of channels that are gone

	_ [64]byte // the next tally is on another cache line
}

// undelivered counts messages that were in a channel when it was deleted.
type undelivered struct {
	pending, inFlight atomic.Uint64
}

// noRoom is why there was no room for a message.
type noRoom int

const (
	channelFull noRoom = iota
	memoryFull
)

// counterShards is how many tallies a registry has.
const counterShards = 16

// Bounds of the histograms: the last bucket has what is beyond.
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
		10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour,
		4 * time.Hour, 12 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour,
	}
)

// maxBuckets is the number of bounds of the longest histogram, and one.
const maxBuckets = 13

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

// histogramOf adds up one histogram of all tallies.
func (r *Broker) histogramOf(bounds []time.Duration, of func(*counters) *histogram) broker.Histogram {
	h := broker.Histogram{Bounds: bounds, Cumulative: make([]uint64, len(bounds))}
	for i := range r.counters {
		part := of(&r.counters[i])
		var count uint64
		for b := range bounds {
			count += part.counts[b].Load()
			h.Cumulative[b] += count
		}
		h.Count += count + part.counts[len(bounds)].Load()
		h.Sum += time.Duration(part.sum.Load())
	}
	return h
}

// Stats adds up. It takes no locks, and no longer with many channels than with few.
func (r *Broker) Stats() broker.Stats {
	t := broker.Stats{
		Channels:      r.Len(),
		Readers:       int(r.readers.Load()),
		HeldProducers: int(r.producers.Load()),
		BufferedBytes: r.budget.buffered.Load(),
		HeldBytes:     r.budget.held.Load(),
		PublishWait:   r.histogramOf(waitBounds, func(t *counters) *histogram { return &t.wait }),
		ChannelLife:   r.histogramOf(lifeBounds, func(t *counters) *histogram { return &t.life }),
	}
	sum := func(of func(*counters) *atomic.Uint64) (n uint64) {
		for i := range r.counters {
			n += of(&r.counters[i]).Load()
		}
		return n
	}
	// Counted meanwhile: so a counter is read before the one that is never behind it, and no difference is negative.
	var lostInFlight, lostPending uint64
	for _, why := range broker.EndReasons {
		inFlight := sum(func(t *counters) *atomic.Uint64 { return &t.undelivered[why].inFlight })
		pending := sum(func(t *counters) *atomic.Uint64 { return &t.undelivered[why].pending })
		t.Undelivered[why] = inFlight + pending
		lostInFlight += inFlight
		lostPending += pending
		t.Deleted[why] = sum(func(t *counters) *atomic.Uint64 { return &t.deleted[why] })
	}
	t.Settled = sum(func(t *counters) *atomic.Uint64 { return &t.settled })
	t.Redelivered = sum(func(t *counters) *atomic.Uint64 { return &t.redelivered })
	t.DeliveryDelay = r.histogramOf(delayBounds, func(t *counters) *histogram { return &t.delay })
	sent := t.DeliveryDelay.Count
	t.Accepted = sum(func(t *counters) *atomic.Uint64 { return &t.accepted })
	t.Duplicates = sum(func(t *counters) *atomic.Uint64 { return &t.duplicates })
	t.RefusedFull = sum(func(t *counters) *atomic.Uint64 { return &t.refused[channelFull] })
	t.RefusedMemory = sum(func(t *counters) *atomic.Uint64 { return &t.refused[memoryFull] })
	t.Created = sum(func(t *counters) *atomic.Uint64 { return &t.created })
	t.Sent = sent + t.Redelivered
	t.InFlight = sent - t.Settled - lostInFlight
	t.Pending = t.Accepted - sent - lostPending
	// What did not wait is not observed, to save the time.
	immediate := t.Accepted - t.PublishWait.Count
	for i := range t.PublishWait.Cumulative {
		t.PublishWait.Cumulative[i] += immediate
	}
	t.PublishWait.Count = t.Accepted
	return t
}
