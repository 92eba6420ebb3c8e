package brokertest

import (
	"slices"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

var operatorTests = group{
	"an empty Broker lists nothing": func(s *suite) {
		if got := s.list(broker.ListOptions{Limit: 10}); len(got) != 0 {
			s.Errorf("the list is %v", got)
		}
	},
	"pages list each channel once": func(s *suite) {
		var want []string
		for range 25 {
			want = append(want, s.create().Consumer)
		}
		slices.Sort(want)
		for _, limit := range []int{1, 7, 25, 26} {
			got := consumers(s.list(broker.ListOptions{Limit: limit}))
			slices.Sort(got)
			if !slices.Equal(got, want) {
				s.Errorf("pages of %d list %v, want %v", limit, got, want)
			}
		}
	},
	"pages list each channel once that exists all the while": func(s *suite) {
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
				s.delete(dying[i].Consumer)
				s.create()
			}
		}
		for address, seen := range live {
			if seen != 1 {
				s.Errorf("%s was listed %d times", address, seen)
			}
		}
	},
	"filters apply together": filtersApplyTogether,
	"a cursor that no page has returned is an error": func(s *suite) {
		for _, cursor := range []string{"x", "-1", "99999999999999999999", "1 "} {
			_, err := s.List(s.Context(), broker.ListOptions{Limit: 1, After: cursor})
			s.is(err, broker.ErrCursor)
		}
	},
	"an id and both addresses find the same channel": func(s *suite) {
		a := s.create()
		s.publish(a.Producer, "1")
		listed := s.list(broker.ListOptions{Limit: 1})[0]
		if listed.Addresses != a || listed.Pending != 1 || listed.ID == "" {
			s.Errorf("the list has %+v", listed)
		}
		for _, name := range []string{listed.ID, a.Producer, a.Consumer} {
			found, err := s.Find(s.Context(), name)
			s.no(err)
			if !sameInfo(found, listed) {
				s.Errorf("%s finds %+v, want %+v", name, found, listed)
			}
		}
	},
	"an id opens nothing": func(s *suite) {
		s.create()
		id := s.list(broker.ListOptions{Limit: 1})[0].ID
		_, err := s.State(s.Context(), id)
		s.is(err, broker.ErrNotFound)
		_, err = s.trySubscribe(id)
		s.is(err, broker.ErrNotFound)
		s.is(s.Publish(s.Context(), id, s.message("m"), s.limits), broker.ErrNotFound)
		s.is(s.Delete(s.Context(), id), broker.ErrNotFound)
		_, err = s.Peek(s.Context(), id, 1)
		s.is(err, broker.ErrNotFound)
	},
	"an id never names another channel": func(s *suite) {
		a := s.create()
		id := s.list(broker.ListOptions{Limit: 1})[0].ID
		s.delete(a.Consumer)
		s.create()
		for _, name := range []string{id, "", "0", "ffffffffffffffff", id + "00", "agent." + id} {
			_, err := s.Find(s.Context(), name)
			s.is(err, broker.ErrNotFound)
		}
	},
	"peek shows the oldest messages and changes nothing": func(s *suite) {
		a := s.create()
		ms := s.publish(a.Producer, "1", "2", "3")
		r := s.subscribe(a.Consumer)
		r.takes(ms...)
		ms = append(ms, s.publish(a.Producer, "4")...)
		s.holds(a.Consumer, 1, 3)
		for _, address := range []string{a.Producer, a.Consumer} {
			for _, limit := range []int{0, 2, 4, 100} {
				got, err := s.Peek(s.Context(), address, limit)
				s.no(err)
				if !same(got, ms[:min(limit, len(ms))]) {
					s.Errorf("a peek at %d messages shows %q", limit, lines(got))
				}
			}
		}
		s.holds(a.Consumer, 1, 3)
		r.End(broker.EndFault)
		_, err := s.Peek(s.Context(), "agent.unknown", 1)
		s.is(err, broker.ErrNotFound)
	},
}

func filtersApplyTogether(s *suite) {
	// In real time, the age is that of a moment halfway between the creation of the old channel and that of the others. A list that
	// takes longer than that says nothing.
	gap := s.pick(30*time.Second, 400*time.Millisecond)
	age := gap
	old, err := s.Create(s.Context(), "other", s.limits)
	s.no(err)
	s.publish(old.Producer, "1", "2")
	time.Sleep(gap)
	between := time.Now()
	time.Sleep(s.pick(0, gap))
	young, read := s.create(), s.create()
	s.publish(young.Producer, "1")
	defer s.subscribe(read.Consumer).End(broker.EndClean)
	listed := s.list(broker.ListOptions{MinAge: age, Limit: 10})
	for begun := between; s.realTime && time.Since(begun) >= gap; {
		begun = time.Now()
		listed = s.list(broker.ListOptions{MinAge: begun.Sub(between), Limit: 10})
	}
	if got := consumers(listed); !slices.Equal(got, []string{old.Consumer}) {
		s.Errorf("by age, the list has %v, want %v", got, old.Consumer)
	}
	yes, no := true, false
	for _, test := range []struct {
		o    broker.ListOptions
		want []string
	}{
		{broker.ListOptions{MinAge: s.pick(age+time.Second, time.Hour)}, nil},
		{broker.ListOptions{Agent: "other"}, []string{old.Consumer}},
		{broker.ListOptions{Agent: "othe"}, nil},
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
}

// list returns all pages of a list as one.
func (s *suite) list(o broker.ListOptions) []broker.ChannelInfo {
	s.Helper()
	var all []broker.ChannelInfo
	for {
		page, err := s.List(s.Context(), o)
		s.no(err)
		if len(page.Channels) > o.Limit {
			s.Fatalf("a page has %d channels, want %d at most", len(page.Channels), o.Limit)
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

// sameInfo compares what is known of a channel. Two times may be the same and have different locations.
func sameInfo(a, b broker.ChannelInfo) bool {
	return a.ID == b.ID && a.Addresses == b.Addresses && a.Connected == b.Connected && a.Pending == b.Pending &&
		a.InFlight == b.InFlight && a.HeldProducers == b.HeldProducers && a.Created.Equal(b.Created) && a.LastRead.Equal(b.LastRead) && a.Expires.Equal(b.Expires)
}
