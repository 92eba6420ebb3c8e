package megaphone

import (
	"sync/atomic"
	"time"
)

// A tally counts what happens in a part of a registry's channels. Each channel counts in one of several tallies,
// so that processors do not contend for the counters. Counters only grow; what there is now is the difference of
// some of them, so that nobody has to walk over the channels to know it.
type tally struct {
	accepted    atomic.Uint64 // messages that a channel has taken
	repeated    atomic.Uint64 // messages that were dropped since the channel had them, by their key
	redelivered atomic.Uint64 // messages that a reader was given again
	settled     atomic.Uint64
	refused     [2]atomic.Uint64 // messages for which there was no room in time: see noRoom

	undelivered [endReasonCount]undelivered
	created     atomic.Uint64
	deleted     [endReasonCount]atomic.Uint64

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

// tallyCount is how many tallies a registry has.
const tallyCount = 16

// An EndReason says why a channel was deleted.
type EndReason int

const (
	// EndExpired means that nobody has read the channel for too long.
	EndExpired EndReason = iota
	// EndDeleted means that it was deleted by a call.
	EndDeleted
	// EndClosed means that the broker was closed.
	EndClosed
	endReasonCount
)

// EndReasons are all reasons.
var EndReasons = [endReasonCount]EndReason{EndExpired, EndDeleted, EndClosed}

// String is the reason's name in metrics, events and logs.
func (e EndReason) String() string { return [...]string{"expired", "deleted", "closed"}[e] }

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

// A Histogram is how many durations were at most as long as each of the bounds, how many there were, and their sum.
type Histogram struct {
	Bounds     []time.Duration
	Cumulative []uint64 // one for each of Bounds
	Count      uint64
	Sum        time.Duration
}

// histogramOf adds up one histogram of all tallies.
func (r *Registry) histogramOf(bounds []time.Duration, of func(*tally) *histogram) Histogram {
	h := Histogram{Bounds: bounds, Cumulative: make([]uint64, len(bounds))}
	for i := range r.tallies {
		part := of(&r.tallies[i])
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

// Totals is what happened in a [Registry] since it was made, and what it holds now. The counters add up: what was
// accepted is settled, undelivered, or still held.
type Totals struct {
	// Channels is how many there are, Readers how many of them are being read, and HeldProducers in how many calls
	// a producer waits for room in a channel.
	Channels, Readers, HeldProducers int
	// Pending and InFlight are the messages that channels hold.
	Pending, InFlight uint64
	// BufferedBytes is what the messages in channels take, each counted once; HeldBytes what waits for room.
	BufferedBytes, HeldBytes int64

	// Accepted counts messages that a channel has taken, Repeated those that it had already, by their key.
	Accepted, Repeated uint64
	// Sent counts messages that a reader was given, Redelivered those among them that one had been given before.
	Sent, Redelivered uint64
	// RefusedFull counts messages that were refused because their channel stayed full, RefusedMemory those that were
	// because the memory for messages was used up.
	RefusedFull, RefusedMemory uint64
	// Settled counts messages that were let go as received.
	Settled uint64
	// Undelivered counts messages that were let go with their channel.
	Undelivered [endReasonCount]uint64
	// Created and Deleted count channels.
	Created uint64
	Deleted [endReasonCount]uint64

	// PublishWait is how long accepted messages waited for room, most of them not at all.
	PublishWait Histogram
	// DeliveryDelay is the time from messages' timestamps until a reader was given them for the first time.
	DeliveryDelay Histogram
	// ChannelLife is how long channels lived that are gone.
	ChannelLife Histogram
}

// Totals adds up. It takes no locks, and no longer with many channels than with few.
func (r *Registry) Totals() Totals {
	t := Totals{
		Channels:      r.Len(),
		Readers:       int(r.readers.Load()),
		HeldProducers: int(r.producers.Load()),
		BufferedBytes: r.memory.buffered.Load(),
		HeldBytes:     r.memory.held.Load(),
		PublishWait:   r.histogramOf(waitBounds, func(t *tally) *histogram { return &t.wait }),
		ChannelLife:   r.histogramOf(lifeBounds, func(t *tally) *histogram { return &t.life }),
	}
	sum := func(of func(*tally) *atomic.Uint64) (n uint64) {
		for i := range r.tallies {
			n += of(&r.tallies[i]).Load()
		}
		return n
	}
	// Counted meanwhile: so a counter is read before the one that is never behind it, and no difference is negative.
	var lostInFlight, lostPending uint64
	for _, why := range EndReasons {
		inFlight := sum(func(t *tally) *atomic.Uint64 { return &t.undelivered[why].inFlight })
		pending := sum(func(t *tally) *atomic.Uint64 { return &t.undelivered[why].pending })
		t.Undelivered[why] = inFlight + pending
		lostInFlight += inFlight
		lostPending += pending
		t.Deleted[why] = sum(func(t *tally) *atomic.Uint64 { return &t.deleted[why] })
	}
	t.Settled = sum(func(t *tally) *atomic.Uint64 { return &t.settled })
	t.Redelivered = sum(func(t *tally) *atomic.Uint64 { return &t.redelivered })
	t.DeliveryDelay = r.histogramOf(delayBounds, func(t *tally) *histogram { return &t.delay })
	sent := t.DeliveryDelay.Count
	t.Accepted = sum(func(t *tally) *atomic.Uint64 { return &t.accepted })
	t.Repeated = sum(func(t *tally) *atomic.Uint64 { return &t.repeated })
	t.RefusedFull = sum(func(t *tally) *atomic.Uint64 { return &t.refused[channelFull] })
	t.RefusedMemory = sum(func(t *tally) *atomic.Uint64 { return &t.refused[memoryFull] })
	t.Created = sum(func(t *tally) *atomic.Uint64 { return &t.created })
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
