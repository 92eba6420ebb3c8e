package brokertest

import (
	"slices"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var operatorTests = map[string]func(*suite){
	"an empty broker lists nothing": func(s *suite) {
		page, err := s.List(s.Context(), broker.ListOptions{Limit: 10})
		s.no(err)
		if page.Channels == nil || len(page.Channels) != 0 || page.Next != "" {
			s.Errorf("page %+v", page)
		}
	},
	"pages list each channel once": func(s *suite) {
		var want []string
		for range 25 {
			want = append(want, s.create().Consumer)
		}
		for _, limit := range []int{1, 7, 25, 26} {
			got := consumers(s.list(broker.ListOptions{Limit: limit}))
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				s.Errorf("by pages of %d: %v, want %v", limit, got, want)
			}
		}
	},
	"pages list each channel once that lives all the while": func(s *suite) {
		live, dying := map[string]int{}, []broker.Addresses{}
		for i := range 20 {
			a := s.create()
			if i%2 == 0 {
				live[a.Consumer] = 0
			} else {
				dying = append(dying, a)
			}
		}
		o := broker.ListOptions{Limit: 2}
		for i := 0; ; i++ {
			page, err := s.List(s.Context(), o)
			s.no(err)
			for _, c := range page.Channels {
				if _, ok := live[c.Consumer]; ok {
					live[c.Consumer]++
				}
			}
			if o.After = page.Next; o.After == "" {
				break
			}
			if i < len(dying) {
				s.no(s.Delete(s.Context(), dying[i].Consumer))
				s.create()
			}
		}
		for address, seen := range live {
			if seen != 1 {
				s.Errorf("%s was listed %d times", address, seen)
			}
		}
	},
	"filters apply together": func(s *suite) {
		old, err := s.Create(s.Context(), "other", s.limits)
		s.no(err)
		s.publish(old.Producer, "1", "2")
		time.Sleep(30 * time.Second)
		young, read := s.create(), s.create()
		s.publish(young.Producer, "1")
		defer s.subscribe(read.Consumer).End(broker.EndClean)
		yes, no := true, false
		for _, test := range []struct {
			o    broker.ListOptions
			want []string
		}{
			{broker.ListOptions{Agent: "other"}, []string{old.Consumer}},
			{broker.ListOptions{Agent: "othe"}, nil},
			{broker.ListOptions{MinAge: 30 * time.Second}, []string{old.Consumer}},
			{broker.ListOptions{MinAge: 31 * time.Second}, nil},
			{broker.ListOptions{MinPending: 2}, []string{old.Consumer}},
			{broker.ListOptions{Connected: &yes}, []string{read.Consumer}},
			{broker.ListOptions{Connected: &no, Agent: "agent"}, []string{young.Consumer}},
			{broker.ListOptions{Connected: &yes, MinPending: 1}, nil},
		} {
			test.o.Limit = 10
			if got := consumers(s.list(test.o)); !slices.Equal(got, test.want) {
				s.Errorf("%+v lists %v, want %v", test.o, got, test.want)
			}
		}
	},
	"a cursor that no page gave out is an error": func(s *suite) {
		for _, cursor := range []string{"x", "-1", "99999999999999999999", "1 "} {
			_, err := s.List(s.Context(), broker.ListOptions{Limit: 1, After: cursor})
			s.is(err, broker.ErrCursor)
		}
	},
	"expired channels are neither listed nor found": func(s *suite) {
		s.create()
		info := s.list(broker.ListOptions{Limit: 1})[0]
		time.Sleep(s.limits.TTL)
		if got := s.list(broker.ListOptions{Limit: 1}); len(got) != 0 {
			s.Errorf("listed %v", got)
		}
		_, err := s.Find(s.Context(), info.ID)
		s.is(err, broker.ErrNotFound)
	},
	"an id and both addresses find the same": func(s *suite) {
		a := s.create()
		s.publish(a.Producer, "1")
		listed := s.list(broker.ListOptions{Limit: 1})[0]
		if listed.Addresses != a || listed.Pending != 1 || listed.ID == "" {
			s.Errorf("listed %+v", listed)
		}
		for _, name := range []string{listed.ID, a.Producer, a.Consumer} {
			found, err := s.Find(s.Context(), name)
			s.no(err)
			if found != listed {
				s.Errorf("%s finds %+v, want %+v", name, found, listed)
			}
		}
	},
	"an id opens nothing, and is nobody else's later": func(s *suite) {
		s.create()
		id := s.list(broker.ListOptions{Limit: 1})[0].ID
		_, err := s.State(s.Context(), id)
		s.is(err, broker.ErrNotFound)
		_, err = s.Subscribe(s.Context(), id, broker.SubscribeOptions{Limits: s.limits})
		s.is(err, broker.ErrNotFound)
		s.is(s.Publish(s.Context(), id, s.message("m"), s.limits), broker.ErrNotFound)
		s.is(s.Delete(s.Context(), id), broker.ErrNotFound)
		_, err = s.Peek(s.Context(), id, 1)
		s.is(err, broker.ErrNotFound)

		a, err := s.Find(s.Context(), id)
		s.no(err)
		s.no(s.Delete(s.Context(), a.Consumer))
		s.create()
		for _, name := range []string{id, "", "0", "ffffffffffffffff", id + "00", "agent." + id} {
			_, err := s.Find(s.Context(), name)
			s.is(err, broker.ErrNotFound)
		}
	},
	"peeking shows the oldest messages and changes nothing": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2", "3")
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		ms = append(ms, s.publish(a.Producer, "4")...)
		for _, limit := range []int{0, 2, 4, 100} {
			got, err := s.Peek(s.Context(), a.Producer, limit)
			s.no(err)
			if !slices.Equal(got, ms[:min(limit, len(ms))]) {
				s.Errorf("a peek at %d shows %v", limit, lines(got))
			}
		}
		s.holds(a.Consumer, 1, 3)
		r.End(broker.EndFault)
		_, err := s.Peek(s.Context(), "agent.unknown", 1)
		s.is(err, broker.ErrNotFound)
	},
	"a channel that nobody drains is not drained": func(s *suite) {
		a := s.create()
		r := s.subscribe(a.Consumer)
		defer r.End(broker.EndClean)
		if r.Drained() {
			s.Error("drained")
		}
	},
}

// list goes through all pages.
func (s *suite) list(o broker.ListOptions) []broker.ChannelInfo {
	s.Helper()
	var all []broker.ChannelInfo
	for {
		page, err := s.List(s.Context(), o)
		s.no(err)
		if len(page.Channels) > o.Limit {
			s.Fatalf("a page of %d channels, want %d at most", len(page.Channels), o.Limit)
		}
		all = append(all, page.Channels...)
		if o.After = page.Next; o.After == "" {
			return all
		}
	}
}

func consumers(channels []broker.ChannelInfo) []string {
	var addresses []string
	for _, c := range channels {
		addresses = append(addresses, c.Consumer)
	}
	return addresses
}
