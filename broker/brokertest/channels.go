package brokertest

import (
	"regexp"
	"strings"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var addressShape = regexp.MustCompile(`^agent\.[A-Za-z0-9_-]{22}$`)

var channelTests = group{
	"addresses have the agent, one dot and two secrets": func(s *suite) {
		a, b := s.create(), s.create()
		seen := map[string]bool{}
		for _, address := range []string{a.Producer, a.Consumer, b.Producer, b.Consumer} {
			if _, _, ok := broker.ParseAddress(address); !ok || !addressShape.MatchString(address) || seen[address] {
				s.Errorf("the address %q is malformed or repeated", address)
			}
			seen[address] = true
		}
	},
	"an address of one kind does not work as the other": func(s *suite) {
		a := s.create()
		s.is(s.Publish(s.Context(), a.Consumer, s.message("m"), s.limits), broker.ErrNotFound)
		_, err := s.trySubscribe(a.Producer)
		s.is(err, broker.ErrNotFound)
	},
	"addresses that no Create returned are not found": func(s *suite) {
		a := s.create()
		_, secret, _ := strings.Cut(a.Consumer, ".")
		other, _ := broker.NewSecrets()
		for _, address := range []string{
			"", ".", "agent", "agent.", "." + secret, "other." + secret, a.Consumer + "x", a.Consumer[:len(a.Consumer)-1],
			a.Consumer + ".x", "agent.." + secret, "agent.\n\r" + secret[2:], "ägent." + secret,
			strings.ToUpper(a.Consumer), broker.FormatAddress("agent", other),
		} {
			_, err := s.State(s.Context(), address)
			s.is(err, broker.ErrNotFound)
			s.is(s.Delete(s.Context(), address), broker.ErrNotFound)
			_, err = s.trySubscribe(address)
			s.is(err, broker.ErrNotFound)
			s.is(s.Publish(s.Context(), address, s.message("m"), s.limits), broker.ErrNotFound)
		}
	},
	"there are no more channels than allowed": func(s *suite) {
		s.limits.MaxChannels = 2
		a := s.create()
		s.create()
		_, err := s.Create(s.Context(), "agent", s.limits)
		s.is(err, broker.ErrChannelLimit)
		s.delete(a.Producer)
		s.create()
	},
	"there are no more channels of one client than allowed": func(s *suite) {
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
		s.delete(a.Producer)
		s.create()
		_, err = s.Create(s.Context(), "agent", s.limits)
		s.is(err, broker.ErrClientLimit)
	},
	"a client may have any number of channels if there is no limit": func(s *suite) {
		s.limits.Client = "one"
		for range 3 {
			s.create()
		}
	},
	"a channel that was refused because of its client does not count": func(s *suite) {
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
	"deleting a channel ends its read and the waits of its producers": func(s *suite) {
		for _, kind := range []func(broker.Addresses) string{
			func(a broker.Addresses) string { return a.Producer },
			func(a broker.Addresses) string { return a.Consumer },
		} {
			a := s.create()
			r := s.subscribe(a.Consumer)
			s.fill(a.Producer)
			held := s.hold(s.Context(), a.Producer, "held")
			s.delete(kind(a))
			s.is(s.returned(held), broker.ErrNotFound)
			r.over(broker.ErrNotFound)
			s.is(s.Delete(s.Context(), kind(a)), broker.ErrNotFound)
			s.is(s.Publish(s.Context(), a.Producer, s.message("m"), s.limits), broker.ErrNotFound)
			r.End(broker.EndClean)
		}
	},
	"the state has times and counts": func(s *suite) {
		before := time.Now()
		a := s.create()
		created := time.Now()
		s.publish(a.Producer, "1", "2")
		time.Sleep(s.pick(time.Second, 0))
		state := s.state(a.Producer)
		s.isTime("the time of creation", state.Created, before, created)
		s.isTime("the time of expiry", state.Expires, before.Add(s.limits.TTL), created.Add(s.limits.TTL))
		if state.Connected || !state.LastRead.IsZero() {
			s.Errorf("the state is %+v before the first read", state)
		}
		before = time.Now()
		r := s.subscribe(a.Consumer)
		s.isTime("the time of the last read", s.state(a.Producer).LastRead, before, time.Now())
		r.next(2)
		s.publish(a.Producer, "3")
		s.holds(a.Consumer, 1, 2)
		if state := s.state(a.Producer); !state.Connected || !state.Expires.IsZero() {
			s.Errorf("the state is %+v during a read", state)
		}
		time.Sleep(s.pick(time.Second, clockTolerance*3/2))
		before = time.Now()
		r.End(broker.EndFault)
		ended := time.Now()
		state = s.state(a.Producer)
		s.isTime("the time of the last read", state.LastRead, before, ended)
		s.isTime("the time of expiry", state.Expires, before.Add(s.limits.TTL), ended.Add(s.limits.TTL))
		if state.Connected {
			s.Errorf("the state is %+v after the read", state)
		}
	},
}
