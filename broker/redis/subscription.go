package redis

import (
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/histogram"
	"github.com/caddy-megaphone/megaphone/internal/clock"
)

// A subscription is the [broker.Subscription] of a reader of this node. It knows the messages from the channel's oldest on:
// first those in flight, then those that this node was given ahead of Take. What the reader takes and settles it reports to
// Redis later, many at once (advance.go). The lock guards all but the fields of the first part.
type subscription struct {
	broker *Broker
	x      channelID
	limits broker.Limits
	resume broker.Resume
	ready  chan struct{}
	done   chan struct{}

	mu    sync.Mutex
	fence uint32
	// starting says that Redis has not answered yet where the channel's messages begin.
	starting bool
	endsWith error // why it ends, if it is known before that
	closes   bool  // the Broker closes: only Received and End have an effect
	over     bool  // no method has an effect any more
	ended    bool  // End was called
	how      broker.End
	endDone  chan struct{} // of an End that waits for a resync
	err      error         // why it is over; set before done is closed
	notify   func()
	drains   bool // this node is being drained, and it is the reader's turn to end

	acks, follows bool
	acked         bool // this reader or one before has acknowledged
	again         bool // see broker.SubscribeOptions.Redeliver
	// unconfirmed is how many of held, from the first, a read has brought that ended as EndUnconfirmed, or any read if the channel
	// follows cursors.
	unconfirmed int
	settledID   broker.EventID // of the last message that was let go

	// The messages. Positions are those of Redis.
	head     uint64  // position of the first of held
	held     []entry // messages in flight and ahead
	known    int     // how many of held, from the first, have their message or have been taken; the others are to be fetched
	inFlight int     // how many of held, from the first, are in flight
	next     int     // the index of the message to take next
	arrived  int     // how many, from the first, this connection has brought to the client's machine
	taken    int     // how many Take has returned
	full     bool    // the window stopped the last Take
	ahead    int64   // bytes of messages that were not taken

	report reporting
}

// An entry is a message of a channel. m is nil once the message was taken, and before it was fetched.
type entry struct {
	id    broker.EventID
	size  uint32
	keyed bool
	since time.Duration // see delivery
	m     *broker.Message
}

func (s *subscription) Ready() <-chan struct{} { return s.ready }
func (s *subscription) Done() <-chan struct{}  { return s.done }
func (s *subscription) Resume() broker.Resume  { return s.resume }

func (s *subscription) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// wake notifies the reader that there may be something to take. The lock is held.
func (s *subscription) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
	s.callNotify()
}

func (s *subscription) callNotify() {
	if s.notify != nil {
		go s.notify()
		s.notify = nil
	}
}

// Notify implements [broker.Notifier].
func (s *subscription) Notify(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notify = nil
	if len(s.ready) > 0 || s.err != nil {
		return false
	}
	s.notify = f
	return true
}

// finish ends the subscription for a reason, and notifies the reader. The lock is held.
func (s *subscription) finish(reason error) {
	if s.over {
		return
	}
	s.over = true
	s.report.stop()
	s.forget()
	s.broker.subs.remove(s)
	if s.closes {
		return // the reader knows
	}
	s.err = reason
	close(s.done)
	s.callNotify()
}

// forget lets go of all messages. The lock is held.
func (s *subscription) forget() {
	s.broker.aheadBytes.Add(-s.ahead)
	s.held, s.ahead = nil, 0
	s.known, s.inFlight, s.next, s.arrived = 0, 0, 0, 0
}

func (s *subscription) Take(dst []*broker.Message, maxBytes int) (ms []*broker.Message, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.closes || s.starting { // a resync wakes the reader, and knows what was taken before
		return dst, false
	}
	again, first := 0, len(dst)
	var now time.Duration // read once, when it is needed
	for size := 0; s.next < s.known && size < maxBytes; {
		if s.next == s.inFlight {
			if s.inFlight >= s.limits.InFlight {
				if s.acks || s.again && !s.follows || s.arrived == 0 {
					full = true
					break
				}
				s.settle(1 + min(s.arrived-1, s.inFlight-s.limits.InFlight))
			}
			s.inFlight++
			if now == 0 {
				now = clock.Now()
			}
			s.broker.stats.delay.Observe(histogram.Delay, now-max(s.held[s.next].since, s.held[s.next].m.Accepted()), 1)
		} else {
			again++
		}
		e := &s.held[s.next]
		dst = append(dst, e.m)
		size += len(e.m.Line())
		s.addAhead(-int64(e.size))
		e.m = nil // a message in flight stays in Redis
		s.next++
		s.taken++
	}
	s.broker.stats.sent.Add(uint64(len(dst) - first)) //nolint:gosec // not negative
	s.broker.stats.redelivered.Add(uint64(again))
	s.full = full
	if s.next < s.known && !full {
		s.wake()
	}
	s.changed()
	return dst, full
}

func (s *subscription) addAhead(bytes int64) {
	s.ahead += bytes
	s.broker.aheadBytes.Add(bytes)
}

// settle lets go of the oldest n messages, which are in flight, and notes that for the next report. The lock is held.
func (s *subscription) settle(n int) {
	if n == 0 {
		return
	}
	for i := range n {
		if e := &s.held[i]; e.m != nil {
			s.addAhead(-int64(e.size)) // it would have been sent again
			e.m = nil
		}
		s.report.bytes += int64(s.held[i].size)
		if s.held[i].keyed {
			s.report.keys = append(s.report.keys, keyOfID(string(s.held[i].id[:])))
		}
	}
	s.settledID = s.held[n-1].id
	s.head += uint64(n) //nolint:gosec // not negative
	s.held = s.held[n:]
	s.known, s.inFlight = max(0, s.known-n), s.inFlight-n
	s.next, s.arrived, s.unconfirmed = max(0, s.next-n), max(0, s.arrived-n), max(0, s.unconfirmed-n)
}

func (s *subscription) Received(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.arrived = max(s.arrived, s.next-(s.taken-n))
	if s.full {
		s.wake()
	}
}

func (s *subscription) Settle(id broker.EventID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.closes {
		return false
	}
	if !s.acked || !s.follows {
		s.acked, s.follows = true, true
		s.report.flags |= flagAcks | flagFollows
	}
	s.acks = true
	found := id == s.settledID && id != uuid.Nil
	for i := range s.inFlight {
		if s.held[i].id == id {
			s.settle(i + 1)
			s.report.now = true // an acknowledgement should not be lost
			found = true
			break
		}
	}
	if s.full {
		s.wake()
	}
	s.changed()
	return found
}

// Drained implements [broker.Subscription]. The channel goes on, on other nodes.
func (s *subscription) Drained() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drains && !s.over && !s.closes && s.next == s.known
}

// drain tells the reader that it is its turn to end.
func (s *subscription) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.drains = true
		s.wake()
	}
}

func (s *subscription) undrain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drains = false
}

// End implements [broker.Subscription]. It returns when the channel is free, or when Redis did not answer in time. In that
// case it goes on trying.
func (s *subscription) End(how broker.End) {
	s.mu.Lock()
	if s.ended || s.over {
		s.ended = true
		s.mu.Unlock()
		return
	}
	s.ended, s.how = true, how
	if s.starting { // Redis is about to have another fence, and would not know the end of this one
		done := make(chan struct{})
		s.endDone = done
		s.mu.Unlock()
		select {
		case <-done:
		case <-s.broker.closing:
		case <-time.After(s.broker.options.Timeout):
		}
		return
	}
	s.endNow()
}

// endAfterResync ends the subscription if End has waited for a resync.
func (s *subscription) endAfterResync() {
	s.mu.Lock()
	done := s.endDone
	if done == nil || s.starting && !s.over {
		s.mu.Unlock()
		return
	}
	s.endDone = nil
	defer close(done)
	if s.over {
		s.mu.Unlock()
		return
	}
	s.endNow()
}

// endNow ends the subscription as End was told. The lock is held, and released.
func (s *subscription) endNow() {
	switch {
	case s.follows:
		s.unconfirmed = max(s.unconfirmed, s.arrived)
	case s.how == broker.EndClean:
		s.settle(s.arrived)
	case s.how == broker.EndUnconfirmed:
		s.settle(min(s.arrived, s.unconfirmed))
		s.unconfirmed = max(s.unconfirmed, s.arrived)
	}
	s.over = true
	s.report.stop()
	final := s.takeReport(true)
	s.forget()
	s.mu.Unlock()
	s.sendEnd(final)
}

// push adds a message that Redis has pushed, or ends the subscription if it cannot be read.
func (s *subscription) push(fence uint32, position uint64, m delivery, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.closes || fence != s.fence {
		return
	}
	if err != nil {
		s.unreadable(err)
		return
	}
	switch at := s.head + uint64(len(s.held)); {
	case !s.starting && position < at:
		return
	case s.starting || position > at || s.known < len(s.held):
		// One was lost, or messages before it are on their way.
		if s.report.busy && len(s.report.early) < maxEarly {
			s.report.early = append(s.report.early, early{position, m})
			return // addFetched finds out
		}
		if !s.report.busy {
			s.broker.store.lostPushes.Add(1)
		}
		s.report.more = true
		s.changed()
		return
	case s.broker.aheadBytes.Load() > maxAheadBytes:
		s.report.more = true
		s.changed() // a reader that has taken all needs it now
		return
	}
	s.add(m)
	s.wake()
}

// unreadable ends the subscription, because Redis has something else in place of a message. The lock is held.
func (s *subscription) unreadable(err error) {
	s.broker.log.Error("redis: a message cannot be read", "channel", s.x.String(), "error", err)
	s.finish(broker.ErrClosed)
}

// add appends a message. The lock is held.
func (s *subscription) add(m delivery) {
	s.held = append(s.held, entry{m.ID(), m.size, m.Keyed(), m.since, m.Message})
	s.known = len(s.held)
	s.addAhead(int64(m.size))
}

const (
	// maxEarly is how many messages are kept that were pushed while messages before them are on their way.
	maxEarly = 256
	// maxAheadBytes is how many bytes of messages this node keeps ahead of its readers. Beyond, readers fetch what they need.
	maxAheadBytes = 256 << 20
)
