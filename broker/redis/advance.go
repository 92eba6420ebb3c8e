package redis

import (
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/clock"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// reportDelay is how long what a reader has taken or settled may go unreported.
const reportDelay = 250 * time.Millisecond

// maxFetch is how many bytes of messages a reader is given at once.
const maxFetch = 1 << 20

// Bounds of how many messages a reader's node may be given before they are taken. There are hardly more than the buffer has.
const (
	minAhead = 16
	maxAhead = 128
)

func aheadOf(l *broker.Limits) int { return min(max(l.InFlight, minAhead), maxAhead, max(1, l.Buffer)) }

// mergeAhead is behind how many messages that are not taken the newest one is not given to a reader's node if it may be merged:
// see lua/merge.lua. A node that takes them as they come has reported that before.
func mergeAhead(l *broker.Limits) int { return max(1, aheadOf(l)*3/4) }

// reporting is what a subscription has to tell Redis, and what it waits for. The subscription's lock guards it.
type reporting struct {
	taken, settled uint64   // positions that Redis knows of
	bytes          int64    // of what was settled since
	keys           []string // of what was settled since
	flags          byte
	more           bool          // Redis may have messages that it has not pushed to this node, or a push got lost
	pushed         uint64        // position up to which Redis has pushed, as it said last
	last           time.Duration // when the last report was made, by the clock of package clock
	stale          bool          // what was pushed since the read or the resync began may be lost
	busy           bool          // a report is on its way
	now            bool          // Redis asks for a report
	timer          *time.Timer
	armed          bool
	early          []early
}

// An early is a message that was pushed before messages before it came.
type early struct {
	position uint64
	m        delivery
}

func (r *reporting) stop() {
	if r.timer != nil {
		r.timer.Stop()
	}
	r.armed, r.early = false, nil
}

// changed reports to Redis if that is due, and sees to it that it will be. The lock is held.
func (s *subscription) changed() {
	r := &s.report
	if s.over || s.closes || r.busy {
		return
	}
	taken, settled := s.takenTo()-r.taken, s.head-r.settled
	half := aheadOf(&s.limits) / 2
	threshold, ahead := uint64(max(1, half)), s.known-s.next
	switch {
	case taken >= threshold || settled >= threshold || r.now, r.more && ahead <= half && ahead < mergeAhead(&s.limits):
		r.busy = true
		guard.Go(guard.Broker, s.advance, s.panicked)
	case (taken > 0 || settled > 0 || r.flags != 0 || s.lacks()) && !r.armed:
		s.remind(reportDelay)
	}
}

// remind sets the timer. The lock is held.
func (s *subscription) remind(after time.Duration) {
	r := &s.report
	r.armed = true
	if r.timer == nil {
		r.timer = time.AfterFunc(after, s.reportDue)
	} else {
		r.timer.Reset(after)
	}
}

// lacks reports whether Redis has pushed a message that is not here: it is on its way, or lost. The lock is held.
func (s *subscription) lacks() bool { return s.report.pushed > s.head+uint64(s.known) } //nolint:gosec // not negative

// takenTo returns the position up to which messages are in flight. The lock is held.
func (s *subscription) takenTo() uint64 { return s.head + uint64(s.inFlight) } //nolint:gosec // not negative

// reportDue is called when something has gone unreported for long enough.
func (s *subscription) reportDue() {
	defer guard.Recover(guard.Broker, s.panicked)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.report
	if r.armed = false; s.over {
		return
	}
	if since := clock.Now() - r.last; since < reportDelay { // there was a report meanwhile, so the rest is younger
		s.remind(reportDelay - since)
		return
	}
	r.now, r.more = true, r.more || s.lacks()
	s.changed()
}

// askReport is called when producers wait and Redis asks what was taken. If call names one, it waits only for that.
func (s *subscription) askReport(fence uint32, call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case fence != s.fence || s.over || s.closes || s.starting:
	case s.takenTo() > s.report.taken || s.head > s.report.settled:
		s.report.now = true
		s.changed()
	case call != "":
		taken := s.takenTo()
		guard.Go(guard.Broker, func() { s.answer(fence, taken, call) })
	}
}

// answer tells Redis that the reader has taken no more than it knows.
func (s *subscription) answer(fence uint32, taken uint64, call string) {
	b := s.broker
	keys, prefix := b.keys.channelKeys(s.x)
	_ = b.run(b.background, answerScript, keys, prefix, b.node, strconv.FormatUint(uint64(fence), 10), strconv.FormatUint(taken, 10),
		call, b.bytesElsewhere(s.x)) // or else the call waits a moment
}

// askFetch is called when there is a message that is too large to push.
func (s *subscription) askFetch(fence uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fence == s.fence {
		s.report.more = true
		s.changed()
	}
}

// A report is what one call tells Redis.
type report struct {
	fence          uint32
	taken, settled uint64
	have           uint64
	count          int
	bytes          int64
	flags          byte
	ends           bool
	id             broker.EventID
	settles        uint64   // messages
	keys           []string // of those that are settled
	unconfirmed    int
}

// takeReport takes what is to be reported. The lock is held.
func (s *subscription) takeReport(ends bool) report {
	r := &s.report
	p := report{
		fence: s.fence, taken: s.takenTo(), settled: s.head, have: s.head + uint64(s.known), //nolint:gosec // not negative
		bytes: r.bytes, flags: r.flags, ends: ends, id: s.settledID, settles: s.head - r.settled, unconfirmed: s.unconfirmed,
		keys: r.keys,
	}
	if room := aheadOf(&s.limits) - (s.known - s.next); r.more && room > 0 && !ends {
		p.count, r.more = room, false
	}
	r.last = clock.Now()
	r.taken, r.settled, r.bytes, r.keys, r.flags, r.now = p.taken, p.settled, 0, nil, 0, false
	return p
}

// reportCall returns the call that tells Redis a report of a channel.
func (b *Broker) reportCall(x channelID, p report) scriptCall {
	keys, prefix := b.keys.channelKeys(x)
	numbers := packer{}.put(6, int64(p.taken)).put(6, int64(p.settled)).put(6, int64(p.have)).put(3, int64(p.count)) //nolint:gosec // positions have 6 bytes
	numbers = numbers.put(5, maxFetch).put(5, p.bytes).put(1, int64(p.flags)).put(1, one(p.ends)).
		put(7, b.ledger.elsewhere(b.keys.scopeOf(x.partition())).bytes).put(3, int64(p.unconfirmed))
	return scriptCall{keys, append([]string{
		prefix, b.node, strconv.FormatUint(uint64(p.fence), 10), rueidis.BinaryString(numbers), string(p.id[:]),
	}, p.keys...)}
}

func one(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// advance reports, and adds the messages that Redis returns.
func (s *subscription) advance() {
	s.mu.Lock()
	if s.over || s.closes {
		s.mu.Unlock()
		return
	}
	p := s.takeReport(false)
	s.mu.Unlock()
	b := s.broker
	call := b.reportCall(s.x, p)
	reply := b.run(b.background, advanceScript, call.keys, call.args...)
	values, err := reply.ToArray()
	code, codeErr := reply.AsInt64()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over || p.fence != s.fence: // a resync takes care of the rest
		s.report.flags |= p.flags
		if err == nil {
			b.countSettled(p, values)
		}
	case err == nil:
		s.advanced(p, values)
	case codeErr == nil && code == -2:
		s.finish(b.gone())
	default: // the connection was lost, or Redis has another reader or has gone back in time: a resync finds out
		if codeErr == nil && code == -1 {
			b.store.fenced.Add(1)
		}
		s.report.bytes += p.bytes
		s.report.flags |= p.flags
		guard.Go(guard.Broker, s.resync, s.panicked)
	}
}

// countSettled counts what a report has settled. values are those of lua/advance.lua.
func (b *Broker) countSettled(p report, values []rueidis.RedisMessage) {
	b.stats.settled.Add(p.settles)
	if integer(values, 3) == 1 {
		b.memoryFreed()
	}
}

// advanced takes the reply to a report. The lock is held.
func (s *subscription) advanced(p report, values []rueidis.RedisMessage) {
	s.broker.countSettled(p, values)
	s.addFetched(p.have, values[4:])
	s.report.pushed = uint64(integer(values, 0) + integer(values, 2)) //nolint:gosec // not negative
	s.report.more = s.report.more || integer(values, 1) > integer(values, 2)
	s.report.busy = false
	s.changed()
}

// addFetched adds messages from a position on, and then those that were pushed meanwhile. The lock is held.
func (s *subscription) addFetched(position uint64, values []rueidis.RedisMessage) {
	before := s.known
	for _, value := range values {
		data, err := value.ToString()
		if err != nil {
			break
		}
		m, err := decodeMessage(data)
		if err != nil {
			s.unreadable(err)
			return
		}
		if !s.addAt(position, m) {
			break
		}
		position++
	}
	waiting := s.report.early
	s.report.early = nil
	for _, e := range waiting {
		if !s.addAt(e.position, e.m) {
			s.report.more = true
		}
	}
	if s.known > before && !s.over {
		s.wake()
	}
}

// addAt adds a message at its position, if it is the next one that is missing. It reports false if messages before it are
// missing. The lock is held.
func (s *subscription) addAt(position uint64, m delivery) bool {
	at := s.head + uint64(s.known) //nolint:gosec // not negative
	switch {
	case s.over || position > at:
		return false
	case position < at:
	case s.known == len(s.held):
		s.add(m)
	default: // one that is in flight, and is sent again
		e := &s.held[s.known]
		e.m, e.since = m.Message, m.since
		s.addAhead(int64(e.size))
		s.known++
	}
	return true
}

// panicked ends the subscription after a panic in one of its goroutines. Its client comes back.
func (s *subscription) panicked() {
	s.mu.Lock()
	final, tell := s.takeReport(true), !s.over && !s.starting
	s.finish(broker.ErrClosed)
	s.mu.Unlock()
	defer s.endAfterResync() // an End that waits for a resync
	if tell {
		s.sendEnd(final)
	}
}
