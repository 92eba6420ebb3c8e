package brokertest

import (
	"regexp"
	"strings"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var addressShape = regexp.MustCompile(`^agent\.[A-Za-z0-9_-]{21,}$`)

var channelTests = map[string]func(*suite){
	"addresses have the agent, one dot and two secrets": func(s *suite) {
		a, b := s.create(), s.create()
		seen := map[string]bool{}
		for _, address := range []string{a.Producer, a.Consumer, b.Producer, b.Consumer} {
			if !addressShape.MatchString(address) || seen[address] {
				s.Errorf("address %q is malformed or repeated", address)
			}
			seen[address] = true
		}
	},
	"an address of one kind does not work as the other": func(s *suite) {
		a := s.create()
		s.is(s.Publish(s.Context(), a.Consumer, s.message("m"), s.limits), broker.ErrNotFound)
		_, err := s.Subscribe(s.Context(), a.Producer, broker.SubscribeOptions{Limits: s.limits})
		s.is(err, broker.ErrNotFound)
	},
	"addresses that were not given out are not found": func(s *suite) {
		a := s.create()
		_, secret, _ := strings.Cut(a.Consumer, ".")
		for _, address := range []string{
			"", ".", "agent", "agent.", "." + secret, "other." + secret, a.Consumer + "x", a.Consumer[:len(a.Consumer)-1],
			a.Consumer + ".x", "agent.." + secret, "agent.\n\r" + secret[2:], "ägent." + secret, strings.ToUpper(a.Consumer),
		} {
			_, err := s.State(s.Context(), address)
			s.is(err, broker.ErrNotFound)
			s.is(s.Delete(s.Context(), address), broker.ErrNotFound)
		}
	},
	"no more channels than allowed": func(s *suite) {
		s.limits.MaxChannels = 2
		a := s.create()
		s.create()
		_, err := s.Create(s.Context(), "agent", s.limits)
		s.is(err, broker.ErrChannelLimit)
		s.no(s.Delete(s.Context(), a.Producer))
		s.create()
	},
	"no more channels of one client than allowed": func(s *suite) {
		s.limits.MaxChannelsPerClient = 2
		other := s.limits
		other.Client = "other"
		s.limits.Client = "one"
		a := s.create()
		s.create()
		_, err := s.Create(s.Context(), "agent", s.limits)
		s.is(err, broker.ErrClientLimit)
		_, err = s.Create(s.Context(), "agent", other)
		s.no(err)
		s.limits.Client = "" // nobody
		for range 3 {
			s.create()
		}
		s.limits.Client = "one"
		s.no(s.Delete(s.Context(), a.Producer))
		s.create()
		_, err = s.Create(s.Context(), "agent", s.limits)
		s.is(err, broker.ErrClientLimit)
		time.Sleep(s.limits.TTL + 2*time.Second) // expired ones count no more
		s.create()
	},
	"a channel that was refused for its client takes no place": func(s *suite) {
		s.limits.MaxChannels, s.limits.MaxChannelsPerClient, s.limits.Client = 2, 1, "one"
		s.create()
		for range 3 {
			_, err := s.Create(s.Context(), "agent", s.limits)
			s.is(err, broker.ErrClientLimit)
		}
		s.limits.Client = "other"
		s.create()
		_, err := s.Create(s.Context(), "agent", s.limits)
		s.is(err, broker.ErrChannelLimit)
	},
	"a channel expires when it was never read": func(s *suite) {
		a := s.create()
		time.Sleep(s.limits.TTL - time.Nanosecond)
		s.state(a.Producer)
		time.Sleep(time.Nanosecond)
		_, err := s.State(s.Context(), a.Producer)
		s.is(err, broker.ErrNotFound)
	},
	"a channel expires after its last read, and not while it is read": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		time.Sleep(3 * s.limits.TTL)
		if state := s.state(a.Consumer); !state.Connected || !state.Expires.IsZero() {
			s.Errorf("state %+v while it is read", state)
		}
		r.End(broker.EndFault)
		time.Sleep(s.limits.TTL - time.Nanosecond)
		if state := s.state(a.Consumer); state.Connected || !state.Expires.Equal(time.Now().Add(time.Nanosecond)) {
			s.Errorf("state %+v just before it expires", state)
		}
		time.Sleep(time.Nanosecond)
		_, err := s.Subscribe(s.Context(), a.Consumer, broker.SubscribeOptions{Limits: s.limits})
		s.is(err, broker.ErrNotFound)
	},
	"expiry ends the wait of a producer": func(s *suite) {
		s.limits.Hold = time.Hour
		a := s.create()
		s.fill(a.Producer)
		held := s.hold(s.Context(), a.Producer, "held")
		time.Sleep(s.limits.TTL + time.Second)
		s.is(s.returned(held), broker.ErrNotFound)
	},
	"deleting ends the read and the wait of producers": func(s *suite) {
		for _, kind := range []func(broker.Addresses) string{
			func(a broker.Addresses) string { return a.Producer },
			func(a broker.Addresses) string { return a.Consumer },
		} {
			a := s.create()
			r := s.subscribe(a.Consumer)
			s.fill(a.Producer)
			held := s.hold(s.Context(), a.Producer, "held")
			s.no(s.Delete(s.Context(), kind(a)))
			s.is(s.returned(held), broker.ErrNotFound)
			r.over(broker.ErrNotFound)
			s.is(s.Delete(s.Context(), kind(a)), broker.ErrNotFound)
			s.is(s.Publish(s.Context(), a.Producer, s.message("m"), s.limits), broker.ErrNotFound)
			r.End(broker.EndClean)
		}
	},
	"the state tells times and counts": func(s *suite) {
		start := time.Now()
		a := s.create()
		s.publish(a.Producer, "1", "2")
		time.Sleep(time.Second)
		state := s.state(a.Producer)
		if !state.Created.Equal(start) || !state.LastRead.IsZero() || !state.Expires.Equal(start.Add(s.limits.TTL)) {
			s.Errorf("state %+v before the first read", state)
		}
		r := s.subscribe(a.Consumer)
		r.takeAll()
		s.publish(a.Producer, "3")
		s.holds(a.Consumer, 1, 2)
		time.Sleep(time.Second)
		r.End(broker.EndFault)
		synctest.Wait()
		if state := s.state(a.Producer); !state.LastRead.Equal(start.Add(2 * time.Second)) {
			s.Errorf("state %+v after the read", state)
		}
	},
}
