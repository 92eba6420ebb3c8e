// Package brokertest is the contract of [megaphone.Broker] as tests. Every Broker passes them.
package brokertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// Run tests the brokers that newBroker makes, each empty, and closed by the function that comes with it. Every test
// runs in a [synctest] bubble, so waits cost no time, and a goroutine that is left behind fails the test.
func Run(t *testing.T, newBroker func() (b broker.Broker, closeBroker func())) {
	for _, group := range []struct {
		name  string
		tests map[string]func(*suite)
	}{
		{"channels", channelTests},
		{"publish", publishTests},
		{"publish now", publishNowTests},
		{"keyed", keyedTests},
		{"batch", batchTests},
		{"ingest", ingestTests},
		{"subscribe", subscribeTests},
		{"window", windowTests},
		{"cursor", cursorTests},
		{"memory", memoryTests},
		{"operators", operatorTests},
	} {
		t.Run(group.name, func(t *testing.T) {
			for name, test := range group.tests {
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						b, closeBroker := newBroker()
						defer closeBroker()
						test(&suite{T: t, Broker: b, limits: Limits})
					})
				})
			}
		})
	}
}

// Limits are what the tests use where they say nothing else.
var Limits = broker.Limits{
	Buffer:      4,
	InFlight:    3,
	Hold:        10 * time.Second,
	TTL:         time.Minute,
	MaxChannels: 1000,
	MaxMemory:   1 << 30,
}

// A suite is a broker under test, with what makes tests short.
type suite struct {
	*testing.T
	broker.Broker

	limits broker.Limits
}

func (s *suite) create() broker.Addresses {
	s.Helper()
	a, err := s.Create(s.Context(), "agent", s.limits)
	s.no(err)
	return a
}

func (s *suite) no(err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("unexpected error: %v", err)
	}
}

func (s *suite) is(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("error %v, want %v", err, want)
	}
}

// message makes a message whose body is the name, by which tests tell messages apart.
func (s *suite) message(name string) *broker.Message { return s.keyed(name, "") }

func (s *suite) keyed(name, key string) *broker.Message {
	s.Helper()
	m, err := broker.NewMessage(name, []byte("null"), key)
	s.no(err)
	return m
}

// publish publishes messages of these names, one call each.
func (s *suite) publish(producer string, names ...string) []*broker.Message {
	s.Helper()
	var ms []*broker.Message
	for _, name := range names {
		ms = append(ms, s.message(name))
		s.no(s.Publish(s.Context(), producer, ms[len(ms)-1], s.limits))
	}
	return ms
}

// fill publishes as many messages as the buffer takes: 0, 1, 2 …
func (s *suite) fill(producer string) []*broker.Message {
	s.Helper()
	return s.publish(producer, numbers(0, s.limits.Buffer)...)
}

func numbers(from, to int) []string {
	var names []string
	for i := from; i < to; i++ {
		names = append(names, fmt.Sprint(i))
	}
	return names
}

// hold starts a Publish that is expected to wait, and returns where its result will be.
func (s *suite) hold(ctx context.Context, producer, name string) <-chan error {
	s.Helper()
	m, result := s.message(name), make(chan error, 1)
	go func() { result <- s.Publish(ctx, producer, m, s.limits) }()
	synctest.Wait()
	s.waits(result)
	return result
}

func (s *suite) waits(result <-chan error) {
	s.Helper()
	synctest.Wait()
	select {
	case err := <-result:
		s.Fatalf("the call has returned %v, and should wait", err)
	default:
	}
}

// returned gets the result of a call that waits no longer.
func (s *suite) returned(result <-chan error) error {
	s.Helper()
	synctest.Wait()
	select {
	case err := <-result:
		return err
	default:
		s.Fatal("the call still waits")
		return nil
	}
}

func (s *suite) subscribe(consumer string, options ...func(*broker.SubscribeOptions)) *reader {
	s.Helper()
	o := broker.SubscribeOptions{Limits: s.limits}
	for _, set := range options {
		set(&o)
	}
	sub, err := s.Subscribe(s.Context(), consumer, o)
	s.no(err)
	return &reader{Subscription: sub, s: s}
}

func takeOver(o *broker.SubscribeOptions)     { o.TakeOver, o.Follow = true, true }
func follow(o *broker.SubscribeOptions)       { o.Follow = true }
func acknowledged(o *broker.SubscribeOptions) { o.Acknowledged, o.Follow = true, true }

func after(cursor string) func(*broker.SubscribeOptions) {
	return func(o *broker.SubscribeOptions) { o.After, o.TakeOver, o.Follow = cursor, true, true }
}

// A reader is a subscription that counts what it was given.
type reader struct {
	broker.Subscription

	s     *suite
	taken int
}

// takes has the reader take what there is, and checks that it is just what is wanted.
func (r *reader) takes(want ...*broker.Message) {
	r.s.Helper()
	got := r.takeAll()
	if !slices.Equal(got, want) {
		r.s.Fatalf("took %v, want %v", lines(got), lines(want))
	}
}

// takeAll takes what there is, as the contract says: once for each value of Ready.
func (r *reader) takeAll() []*broker.Message {
	var all []*broker.Message
	for {
		synctest.Wait()
		select {
		case <-r.Ready():
		default:
			return all
		}
		ms, _ := r.Take(nil, 1<<20)
		r.taken += len(ms)
		all = append(all, ms...)
	}
}

// received reports that all that was taken has arrived.
func (r *reader) received() { r.Received(r.taken) }

func (r *reader) over(want error) {
	r.s.Helper()
	synctest.Wait()
	select {
	case <-r.Done():
		r.s.is(r.Err(), want)
	default:
		r.s.Fatal("the subscription is not over")
	}
}

func lines(ms []*broker.Message) []string {
	var text []string
	for _, m := range ms {
		text = append(text, string(m.Line()))
	}
	return text
}

func (s *suite) state(address string) broker.State {
	s.Helper()
	state, err := s.State(s.Context(), address)
	s.no(err)
	return state
}

func (s *suite) holds(address string, pending, inFlight int) {
	s.Helper()
	synctest.Wait()
	if state := s.state(address); state.Pending != pending || state.InFlight != inFlight {
		s.Fatalf("%d pending and %d in flight, want %d and %d", state.Pending, state.InFlight, pending, inFlight)
	}
}
