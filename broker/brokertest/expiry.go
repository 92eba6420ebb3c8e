package brokertest

import (
	"errors"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// sweep is how long a Broker may take to notice by itself that a channel has expired. Calls for the channel notice it at
// once.
const sweep = 2 * time.Second

var expiryTests = group{
	"a channel that was never read expires": func(s *suite) {
		s.shortTTL()
		before := time.Now()
		a := s.create()
		s.livesFor(a, before, s.limits.TTL)
	},
	"a channel expires after its last read, and not while it is read": func(s *suite) {
		s.shortTTL()
		a, r := s.createAndSubscribe()
		time.Sleep(s.pick(3*s.limits.TTL, s.limits.TTL*5/4))
		if state := s.state(a.Consumer); !state.Connected || !state.Expires.IsZero() {
			s.Errorf("the state is %+v while the channel is read", state)
		}
		before := time.Now()
		r.End(broker.EndFault)
		s.livesFor(a, before, s.limits.TTL)
	},
	"a channel lives as long after a read as the read's limits say": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		ttl := s.limits.TTL
		s.limits.TTL *= 2 // of another configuration, which has no effect on this read
		time.Sleep(s.pick(time.Hour, 0))
		before := time.Now()
		r.End(broker.EndClean)
		s.isTime("the time of expiry", s.state(a.Consumer).Expires, before.Add(ttl), time.Now().Add(ttl))
	},
	"a channel may have a time to live of its own": func(s *suite) {
		s.limits.ChannelTTL = s.pick(time.Hour, 600*time.Millisecond)
		own, before := s.limits.ChannelTTL, time.Now()
		a := s.create()
		s.isTime("the time of expiry", s.state(a.Consumer).Expires, before.Add(own), time.Now().Add(own))
		s.limits.ChannelTTL, s.limits.TTL = 0, s.pick(time.Minute, time.Hour)
		r := s.subscribe(a.Consumer)
		time.Sleep(s.pick(3*own, own*5/4))
		before = time.Now()
		r.End(broker.EndClean)
		s.livesFor(a, before, own)
	},
	"expiry ends the wait of a producer": func(s *suite) {
		s.limits.Hold = time.Hour
		a := s.create()
		s.fill(a.Producer)
		held := s.hold(s.Context(), a.Producer, "held")
		expires := s.expire(a.Consumer)
		if !s.realTime {
			time.Sleep(time.Until(expires) + time.Second)
		}
		s.is(s.returned(held), broker.ErrNotFound)
	},
	"an expired channel does not count": func(s *suite) {
		s.limits.MaxChannels, s.limits.MaxChannelsPerClient = 3, 1
		full, ofClient := s.limits, s.limits
		full.MaxChannels = 2
		ofClient.Client = "one"
		tryBoth := func() (errFull, errClient error) {
			_, errFull = s.Create(s.Context(), "agent", full)
			_, errClient = s.Create(s.Context(), "agent", ofClient)
			return errFull, errClient
		}
		a := s.create()
		b, err := s.Create(s.Context(), "agent", ofClient)
		s.no(err)
		errFull, errClient := tryBoth()
		s.is(errFull, broker.ErrChannelLimit)
		s.is(errClient, broker.ErrClientLimit)
		s.expire(a.Consumer)
		expires := s.expire(b.Consumer)
		created, createdOfClient := false, false
		if !s.within(time.Until(expires)+sweep, func() bool {
			errFull, errClient = tryBoth()
			created, createdOfClient = created || errFull == nil, createdOfClient || errClient == nil
			return created && createdOfClient
		}) {
			s.Errorf("after channels have expired, Create fails with %v and %v", errFull, errClient)
		}
	},
	"an expired channel frees its memory": func(s *suite) {
		s.limits.Hold = time.Hour
		full, b := s.useUpMemory(), s.create()
		s.subscribe(b.Consumer) // which keeps it alive
		held := s.hold(s.Context(), b.Producer, "held")
		expires := s.expire(full.Consumer)
		if !s.realTime {
			time.Sleep(time.Until(expires) + sweep)
		}
		s.no(s.returned(held))
	},
	"an expired channel is not found, nor listed": func(s *suite) {
		a := s.create()
		info := s.list(broker.ListOptions{Limit: 1})[0]
		expires := s.expire(a.Consumer)
		if !s.within(time.Until(expires), func() bool { return len(s.list(broker.ListOptions{Limit: 1})) == 0 }) {
			s.Error("the channel is listed")
		}
		for _, name := range []string{info.ID, a.Producer, a.Consumer} {
			_, err := s.Find(s.Context(), name)
			s.is(err, broker.ErrNotFound)
		}
		s.isGone(a)
	},
}

// createAndSubscribe makes the caller the reader of a new channel, before the channel expires.
func (s *suite) createAndSubscribe() (broker.Addresses, *reader) {
	s.Helper()
	for {
		before := time.Now()
		a := s.create()
		sub, err := s.trySubscribe(a.Consumer)
		if err == nil {
			return a, &reader{Subscription: sub, s: s}
		}
		if s.is(err, broker.ErrNotFound); time.Since(before) < s.limits.TTL {
			s.Fatalf("the channel has expired after less than %v", time.Since(before))
		}
	}
}

// livesFor checks that a channel expires when its time to live, counted from start, is over, and not before.
func (s *suite) livesFor(a broker.Addresses, start time.Time, ttl time.Duration) {
	s.Helper()
	if s.realTime {
		time.Sleep(time.Until(start.Add(ttl / 2)))
		if s.gone(a.Producer) && time.Since(start) < ttl { // a slow machine may come here later
			s.Errorf("the channel has expired after %v, want %v", time.Since(start), ttl)
		}
	} else {
		time.Sleep(time.Until(start.Add(ttl)) - time.Nanosecond)
		s.isTime("the time of expiry", s.state(a.Producer).Expires, start.Add(ttl), start.Add(ttl))
		time.Sleep(time.Nanosecond)
	}
	if !s.eventually(func() bool { return s.gone(a.Producer) }) {
		s.Fatalf("the channel has not expired after %v", time.Since(start))
	}
	s.took(start, ttl)
	s.isGone(a)
}

// isGone checks that no call finds a channel.
func (s *suite) isGone(a broker.Addresses) {
	s.Helper()
	_, err := s.trySubscribe(a.Consumer)
	s.is(err, broker.ErrNotFound)
	s.is(s.Publish(s.Context(), a.Producer, s.message("m"), s.limits), broker.ErrNotFound)
	if s.PublishNow(a.Producer, s.message("m"), s.limits) {
		s.Error("a channel that is gone has taken a message")
	}
	outcome := s.PublishBatch(s.Context(), []string{a.Producer}, []*broker.Message{s.message("m")}, s.limits)[0]
	if outcome.Accepted != 0 || !errors.Is(outcome.Err, broker.ErrNotFound) {
		s.Errorf("the outcome is %+v", outcome)
	}
	_, err = s.Peek(s.Context(), a.Consumer, 1)
	s.is(err, broker.ErrNotFound)
	s.is(s.Delete(s.Context(), a.Consumer), broker.ErrNotFound)
}
