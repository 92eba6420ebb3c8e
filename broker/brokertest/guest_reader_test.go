package brokertest_test

import (
	"context"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A subscription is to a channel of a guest, whose lock guards it.
type subscription struct {
	*guest
	*channel
	limits      broker.Limits
	acks        bool
	again       bool // acks, unless the channel follows cursors
	resume      broker.Resume
	ready, done chan struct{}
	err         error
	next        int // so many of the channel's messages were taken by this reader
	arrived     int // and so many have been received
	taken       int
	full        bool // the last Take was stopped by the window
}

func (g *guest) Subscribe(_ context.Context, consumer string, o broker.SubscribeOptions) (broker.Subscription, error) {
	defer g.lock()()
	c, err := g.find(consumer, (*channel).consumer)
	if err != nil {
		return nil, err
	}
	readers := 0
	for _, other := range g.channels {
		if other.reader != nil {
			readers++
		}
	}
	switch {
	case c.reader != nil && !o.TakeOver:
		return nil, broker.ErrBusy
	case c.reader == nil && o.MaxReaders > 0 && readers >= o.MaxReaders:
		return nil, broker.ErrReaderLimit
	}
	s := &subscription{guest: g, channel: c, limits: o.Limits, again: o.Redeliver, ready: make(chan struct{}, 1), done: make(chan struct{})}
	s.acks = o.Acknowledged || o.MayAcknowledge && c.acks
	if o.After != "" {
		s.resume = broker.ResumeGap
		if id, ok := broker.ParseEventID(o.After); ok && s.settle(id) {
			s.resume = broker.ResumeComplete
		}
	}
	c.endReader(broker.ErrTakenOver)
	c.reader, c.LastRead, c.follows = s, time.Now(), c.follows || o.Follow
	if !c.follows && !o.Redeliver {
		s.letGo(c, c.unconfirmed)
	}
	if len(c.messages) > 0 {
		s.wake()
	}
	return s, nil
}

func (s *subscription) wake() {
	if s != nil && len(s.ready) == 0 {
		s.ready <- struct{}{}
	}
}

func (s *subscription) settle(id broker.EventID) (found bool) {
	i := s.index(id, s.inFlight)
	s.letGo(s.channel, i+1)
	return i >= 0 || id == s.settled && id != broker.EventID{}
}

// letGo removes a channel's oldest messages.
func (g *guest) letGo(c *channel, n int) {
	for _, m := range c.messages[:n] {
		g.bytes -= restore(m).Size()
		if c.settled = m.ID; m.Keyed {
			c.keys = append(c.keys, m.ID)
		}
	}
	c.keys = c.keys[max(0, len(c.keys)-broker.KeyWindow):]
	c.messages, c.inFlight, c.unconfirmed = c.messages[n:], max(0, c.inFlight-n), max(0, c.unconfirmed-n)
	if s := c.reader; s != nil {
		s.next, s.arrived = max(0, s.next-n), max(0, s.arrived-n)
	}
}

func (s *subscription) Take(dst []*broker.Message, maxBytes int) (ms []*broker.Message, full bool) {
	defer s.lock()()
	c := s.channel
	for size := 0; c.reader == s && size < maxBytes && s.next < len(c.messages); {
		if s.next == c.inFlight {
			if over := c.inFlight + 1 - s.limits.InFlight; over > 0 {
				if full = s.acks || s.again && !c.follows || s.arrived == 0; full {
					break
				}
				s.letGo(c, min(over, s.arrived))
			}
			c.inFlight++
		}
		m := restore(c.messages[s.next])
		s.next++
		s.taken++
		size += len(m.Line())
		dst = append(dst, m)
	}
	if s.full = full; s.next < len(c.messages) && !full {
		s.wake()
	}
	return dst, full
}

func restore(m broker.StoredMessage) *broker.Message {
	restored, err := broker.RestoreMessage(m)
	if err != nil {
		panic(err) // it was stored from a message
	}
	return restored
}

func (s *subscription) Received(n int) {
	defer s.lock()()
	if s.arrived = max(s.arrived, s.next-(s.taken-n)); s.full {
		s.wake()
	}
}

func (s *subscription) Settle(id broker.EventID) (found bool) {
	defer s.lock()()
	if s.reader != s {
		return false
	}
	s.acks, s.channel.acks, s.follows = true, true, true
	if found = s.settle(id); s.full {
		s.wake()
	}
	return found
}

func (s *subscription) End(how broker.End) {
	defer s.lock()()
	if s.reader != s {
		return
	}
	switch {
	case s.follows:
	case how == broker.EndClean:
		s.letGo(s.channel, s.arrived)
	case how == broker.EndUnconfirmed:
		s.letGo(s.channel, min(s.arrived, s.unconfirmed))
		s.unconfirmed = max(s.arrived, s.unconfirmed)
	}
	s.reader, s.LastRead = nil, time.Now()
	s.expire(s.channel, s.limits)
}

func (s *subscription) Ready() <-chan struct{} { return s.ready }
func (s *subscription) Done() <-chan struct{}  { return s.done }
func (s *subscription) Resume() broker.Resume  { return s.resume }
func (s *subscription) Drained() bool          { return false }

func (s *subscription) Err() error {
	defer s.lock()()
	return s.err
}
