package memory

import (
	"time"

	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/histogram"
	"github.com/caddy-megaphone/megaphone/internal/clock"
)

// A subscription is the [broker.Subscription] of a channel's reader. The channel's lock guards it. It has an effect
// only as long as it is the channel's reader.
type subscription struct {
	channel *channel
	ready   chan struct{}
	done    chan struct{}
	err     error  // why it is over; set before done is closed
	notify  func() // the next wake or finish calls it once; may be nil

	limits broker.Limits
	acks   bool // messages leave the window only by being settled
	again  bool // the same, unless the channel follows cursors
	resume broker.Resume

	next    int  // the index in the queue of the message to take next; at most queue.inFlight
	arrived int  // how many messages, from the first of the queue, this connection has brought to the client's machine
	taken   int  // how many messages Take has returned
	full    bool // the window stopped the last Take
	awaits  bool // the last Take has found nothing but messages that are not durable
}

// subscribe makes the caller the channel's reader, as [broker.Broker].Subscribe does.
func (c *channel) subscribe(o broker.SubscribeOptions) (*subscription, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != open {
		return nil, c.closed.err()
	}
	if c.reader != nil {
		if !o.TakeOver {
			return nil, broker.ErrBusy
		}
		c.reader.finish(broker.ErrTakenOver)
	} else if n := c.broker.readers.Add(1); o.MaxReaders > 0 && n > int64(o.MaxReaders) {
		c.broker.readers.Add(-1)
		return nil, broker.ErrReaderLimit
	}
	s := &subscription{
		channel: c,
		ready:   make(chan struct{}, 1),
		done:    make(chan struct{}),
		limits:  o.Limits,
		acks:    o.Acknowledged || o.MayAcknowledge && c.acks,
		again:   o.Redeliver,
	}
	c.follows = c.follows || o.Follow
	if !c.follows && !o.Redeliver {
		c.settle(int(c.unconfirmed)) // the client has seen the end of the read that has brought them
	}
	if o.After != "" {
		s.resume = broker.ResumeGap
		if id, ok := broker.ParseEventID(o.After); ok && c.settleUpTo(id) {
			s.resume = broker.ResumeComplete
		}
	}
	if c.reader == nil {
		c.readerChanged(1)
	}
	c.reader = s
	c.readerComes()
	c.lastRead = c.broker.now()
	c.expires.Store(never)
	c.journalRead(c.lifetime(o.TTL))
	c.journalMove()
	if c.queue.len > c.notDurable() {
		s.wake()
	}
	return s, nil
}

// settleUpTo settles everything in flight up to and including an event. It reports whether it knows the event: it is in
// flight, or was the last one to be let go. The lock is held.
func (c *channel) settleUpTo(id broker.EventID) bool {
	if i := c.queue.find(id, c.queue.inFlight); i >= 0 {
		c.settle(i + 1)
		return true
	}
	return id == c.settled && id != uuid.Nil
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

// callNotify calls the function that Notify was given, if there is one. The lock is held, so the function gets a
// goroutine of its own. It does not panic: see [broker.Notifier].
func (s *subscription) callNotify() {
	if s.notify != nil {
		go s.notify()
		s.notify = nil
	}
}

// Notify implements [broker.Notifier].
func (s *subscription) Notify(f func()) bool {
	s.channel.mu.Lock()
	defer s.channel.mu.Unlock()
	s.notify = nil
	if len(s.ready) > 0 || s.err != nil {
		return false
	}
	s.notify = f
	return true
}

// finish ends the subscription for a reason, and notifies the reader. The lock is held.
func (s *subscription) finish(reason error) {
	s.err = reason
	close(s.done)
	s.callNotify()
}

func (s *subscription) Take(dst []*broker.Message, maxBytes int) (ms []*broker.Message, full bool) {
	c := s.channel
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reader != s {
		return dst, false
	}
	q := &c.queue
	visible := q.len - c.notDurable()
	before := s.taken
	again := 0            // messages that a reader was given before
	var now time.Duration // read once, when it is needed
	for size := 0; s.next < visible && size < maxBytes; {
		if s.next == q.inFlight {
			if q.inFlight >= s.limits.InFlight {
				if s.acks || s.again && !c.follows || s.arrived == 0 {
					full = true
					break
				}
				all := q.len
				c.settle(1 + min(s.arrived-1, q.inFlight-s.limits.InFlight))
				visible -= all - q.len
			}
			since := c.take()
			if now == 0 {
				now = clock.Now()
			}
			c.counters.delay.Observe(histogram.Delay, now-since, 1)
		} else {
			again++
		}
		m := c.asSent(s.next)
		s.next++
		s.taken++
		size += len(m.Line())
		dst = append(dst, m)
	}
	if again > 0 {
		c.counters.redelivered.Add(uint64(again))
	}
	c.journalMove()
	s.full, s.awaits = full, s.taken == before && !full && visible < q.len
	if s.next < visible && !full {
		s.wake()
	}
	if c.held.first != nil {
		c.admitHeld()
	}
	return dst, full
}

// shift adjusts the subscription after the oldest n messages have left the queue. The lock is held.
func (s *subscription) shift(n int) {
	s.next = max(0, s.next-n)
	s.arrived = max(0, s.arrived-n)
}

func (s *subscription) Received(n int) {
	c := s.channel
	c.mu.Lock()
	defer c.mu.Unlock()
	s.arrived = max(s.arrived, s.next-(s.taken-n))
	if s.full {
		s.wake()
	}
}

func (s *subscription) Settle(id broker.EventID) bool {
	c := s.channel
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reader != s {
		return false
	}
	s.acks = true
	if !c.acks || !c.follows {
		c.acks, c.follows = true, true
		c.journalRead(0)
	}
	found := c.settleUpTo(id)
	c.journalMove()
	if s.full {
		s.wake()
	}
	return found
}

func (s *subscription) End(how broker.End) {
	c := s.channel
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reader != s {
		return
	}
	switch {
	case c.follows:
		c.unconfirmed = max(c.unconfirmed, uint32(s.arrived)) //nolint:gosec // no channel holds so many
	case how == broker.EndClean:
		c.settle(s.arrived)
	case how == broker.EndUnconfirmed:
		c.settle(min(s.arrived, int(c.unconfirmed)))
		c.unconfirmed = max(c.unconfirmed, uint32(s.arrived)) //nolint:gosec // no channel holds so many
	}
	c.reader = nil
	c.readerChanged(-1)
	c.broker.readers.Add(-1)
	c.lastRead = c.broker.now()
	c.expires.Store(int64(c.lastRead + c.lifetime(s.limits.TTL)))
	c.journalMove()
	c.journalRead(c.lifetime(s.limits.TTL))
	if w := c.held.first; w != nil && s.awaits && c.merges(w.ms[0], &w.limits) {
		c.admitHeld() // nobody awaits the newest message any more: see isAwaited
	}
}
