package brokertest

import "github.com/caddy-megaphone/megaphone/broker"

var notifyTests = group{
	"a function is called once, when there is something to take": func(s *suite) {
		n := s.notified()
		n.notify(true)
		n.notify(true) // in the place of the other
		n.called(0)
		ms := s.publish(n.channel.Producer, "1", "2")
		n.called(1)
		n.notify(false)
		n.called(1)
		n.takes(ms...)
		n.notify(true)
		n.Settle(ms[0].ID()) // the window was not full
		n.called(1)
	},
	"a function is called once, when the subscription is over": func(s *suite) {
		n := s.notified()
		n.notify(true)
		s.delete(n.channel.Producer)
		n.called(1)
		n.over(broker.ErrNotFound)
		n.notify(false)
		n.called(1)
	},
	"a function is called when the Broker closes": func(s *suite) {
		n := s.notified()
		n.notify(true)
		s.Close()
		n.called(1)
		n.over(broker.ErrClosed)
	},
	"a function is called when a full window has room again": func(s *suite) {
		n := s.notified()
		ms := s.fill(n.channel.Producer)
		n.takes(ms[:s.limits.InFlight]...)
		n.notify(true)
		n.called(0)
		n.received()
		n.called(1)
		n.takes(ms[s.limits.InFlight:]...)
	},
	"a function may use the subscription": func(s *suite) {
		n := s.notified()
		taken := make(chan []*broker.Message, 1)
		n.notifier.Notify(func() {
			ms, _ := n.Take(nil, allBytes)
			taken <- ms
		})
		ms := s.publish(n.channel.Producer, "1")
		if got, ok := receive(s, taken); !ok || !same(got, ms) {
			s.Errorf("the function took %q, want %q", lines(got), lines(ms))
		}
	},
}

// A notified is a reader that counts the calls of a function.
type notified struct {
	*reader

	channel  broker.Addresses
	notifier broker.Notifier
	calls    chan struct{}
}

func (s *suite) notified() *notified {
	s.Helper()
	a := s.create()
	r := s.subscribe(a.Consumer)
	notifier, ok := r.Subscription.(broker.Notifier)
	if !ok {
		s.Skip("the Broker's Subscription does not implement broker.Notifier")
	}
	return &notified{r, a, notifier, make(chan struct{}, 10)}
}

func (n *notified) notify(want bool) {
	n.s.Helper()
	if n.notifier.Notify(func() { n.calls <- struct{}{} }) != want {
		n.s.Fatalf("Notify returns %v", !want)
	}
}

// called checks how often functions have been called.
func (n *notified) called(want int) {
	n.s.Helper()
	n.s.eventually(func() bool { return len(n.calls) >= want })
	if n.s.pause(); len(n.calls) != want {
		n.s.Fatalf("the function was called %d times, want %d", len(n.calls), want)
	}
}
