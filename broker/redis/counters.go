package redis

import (
	"sync/atomic"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/histogram"
)

// stats is what this node has counted since it started. What the channels hold now is counted in Redis, for all nodes.
type stats struct {
	accepted, duplicates, sent, redelivered, settled  atomic.Uint64
	refusedFull, refusedMemory, unroutable, withdrawn atomic.Uint64
	replaced, appended, created, published, skipped   atomic.Uint64
	undelivered, deleted                              [broker.EndReasonCount]atomic.Uint64

	wait, delay, life histogram.Histogram
}

// countMerged counts accepted messages that were merged with others.
func (s *stats) countMerged(replaced, appended int) {
	if replaced+appended > 0 {
		s.replaced.Add(uint64(replaced)) //nolint:gosec // not negative
		s.appended.Add(uint64(appended)) //nolint:gosec // not negative
	}
}

// totals is what all channels hold, as Redis counts it.
type totals struct {
	channels, readers, messages, inFlight, bytes, held, heldBytes int64
	topics, memberships, kept                                     int64
}

// A ledger has the totals that Redis told this node last. In a cluster they are those of other scopes for the limits, which are
// exact to a second or so there. A single server counts exactly.
type ledger struct {
	turn    chan struct{} // has room for the one refresh that is under way
	scopes  int
	current atomic.Pointer[allTotals]
}

// allTotals are the totals of each scope, and their sum. They never change.
type allTotals struct {
	parts []totals
	sum   totals
}

func newLedger(scopes int) *ledger {
	l := &ledger{scopes: scopes, turn: make(chan struct{}, 1)}
	l.current.Store(&allTotals{parts: make([]totals, scopes)})
	return l
}

// elsewhere returns the totals of other scopes.
func (l *ledger) elsewhere(scope int) totals {
	if l.scopes == 1 {
		return totals{}
	}
	t := l.current.Load()
	all, part := &t.sum, &t.parts[scope]
	return totals{
		channels: max(0, all.channels-part.channels), readers: max(0, all.readers-part.readers), bytes: max(0, all.bytes-part.bytes),
		kept: max(0, all.kept-part.kept),
	}
}

// Stats implements [broker.Statser]. Counters are those of this process. What the channels hold is that of all nodes.
func (b *Broker) Stats() broker.Stats {
	if b.isStarted() && !b.isClosed() {
		_ = b.refresh(b.background)
	}
	s, t := &b.stats, &b.ledger.current.Load().sum
	messages := uint64(max(0, t.messages))
	inFlight := min(uint64(max(0, t.inFlight)), messages)
	r := broker.Stats{
		Channels: int(t.channels), Readers: int(t.readers), HeldProducers: int(t.held),
		Pending: messages - inFlight, InFlight: inFlight,
		BufferedBytes: max(0, t.bytes), HeldBytes: max(0, t.heldBytes),
		Accepted: s.accepted.Load(), Duplicates: s.duplicates.Load(),
		Replaced: s.replaced.Load(), Appended: s.appended.Load(),
		Sent: s.sent.Load(), Redelivered: s.redelivered.Load(), Settled: s.settled.Load(),
		RefusedFull: s.refusedFull.Load(), RefusedMemory: s.refusedMemory.Load(), Created: s.created.Load(),
		Topics: int(max(0, t.topics)), Memberships: int(max(0, t.memberships)), KeptBytes: max(0, t.kept),
		Published: s.published.Load(), Skipped: s.skipped.Load(),
		Unroutable: s.unroutable.Load(), Withdrawn: s.withdrawn.Load(),
		PublishWait: histogram.Sum(histogram.Wait, &s.wait), DeliveryDelay: histogram.Sum(histogram.Delay, &s.delay),
		ChannelLife: histogram.Sum(histogram.Life, &s.life),
	}
	for _, reason := range broker.EndReasons {
		r.Undelivered[reason], r.Deleted[reason] = s.undelivered[reason].Load(), s.deleted[reason].Load()
	}
	// Only messages that waited are observed. Those that did not wait belong in every bucket.
	immediate := r.Accepted - min(r.Accepted, r.PublishWait.Count)
	for i := range r.PublishWait.Cumulative {
		r.PublishWait.Cumulative[i] += immediate
	}
	r.PublishWait.Count = r.Accepted
	return r
}
