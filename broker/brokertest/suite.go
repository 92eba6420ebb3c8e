package brokertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A suite is a Broker under test, with helpers that make tests short.
type suite struct {
	*testing.T
	broker.Broker

	limits   broker.Limits
	realTime bool
	quiet    time.Duration
	shared   bool
	copies   bool
	failed   *atomic.Bool // a test of the same Run has failed
}

// implementing returns the Broker as an optional interface. If the Broker does not implement it, the test is skipped.
func implementing[T any](s *suite) T {
	s.Helper()
	b, ok := s.Broker.(T)
	if !ok {
		s.Skipf("the Broker does not implement %v", reflect.TypeFor[T]())
	}
	return b
}

func (s *suite) create() broker.Addresses {
	s.Helper()
	a, err := s.Create(s.Context(), "agent", s.limits)
	s.no(err)
	return a
}

func (s *suite) delete(address string) {
	s.Helper()
	s.no(s.Delete(s.Context(), address))
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
		s.Fatalf("the error is %v, want %v", err, want)
	}
}

// message makes a message with the given stream id. The failure of a test shows it.
func (s *suite) message(name string) *broker.Message { return s.keyed(name, "") }

func (s *suite) keyed(name, key string) *broker.Message {
	s.Helper()
	m, err := broker.NewMessage(name, []byte("null"), key)
	s.no(err)
	return m
}

// big makes a message with a random body of so many bytes. A store cannot compress it much.
func (s *suite) big(name string, size int) *broker.Message {
	s.Helper()
	const digits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	body := bytes.Repeat([]byte{'"'}, size)
	for i := 1; i < size-1; i++ {
		body[i] = digits[rand.IntN(len(digits))]
	}
	m, err := broker.NewMessage(name, body, "")
	s.no(err)
	return m
}

// publish publishes a message of each name, one call after the other.
func (s *suite) publish(producer string, names ...string) []*broker.Message {
	s.Helper()
	var ms []*broker.Message
	for _, name := range names {
		m := s.message(name)
		s.send(producer, m)
		ms = append(ms, m)
	}
	return ms
}

func (s *suite) send(producer string, m *broker.Message) {
	s.Helper()
	s.no(s.Publish(s.Context(), producer, m, s.limits))
}

// fill publishes as many messages as an empty buffer takes: 0, 1, 2 …
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

// start makes a call in another goroutine. The returned channel receives its result.
func start(call func() error) <-chan error {
	result := make(chan error, 1)
	go func() { result <- call() }()
	return result
}

// begin publishes a message in another goroutine.
func (s *suite) begin(ctx context.Context, producer string, m *broker.Message) <-chan error {
	l := s.limits // the test may change them meanwhile
	return start(func() error { return s.Publish(ctx, producer, m, l) })
}

// hold publishes a message for which there is no room, and checks that the call waits.
func (s *suite) hold(ctx context.Context, producer, name string) <-chan error {
	s.Helper()
	return s.holdMessage(ctx, producer, s.message(name))
}

func (s *suite) holdMessage(ctx context.Context, producer string, m *broker.Message) <-chan error {
	s.Helper()
	result := s.begin(ctx, producer, m)
	s.waits(result)
	return result
}

func (s *suite) waits(result <-chan error) {
	s.Helper()
	if !silent(s, result) {
		s.Fatal("a call has returned that should wait")
	}
}

// returned returns the result of a call that must not wait any more.
func (s *suite) returned(result <-chan error) error {
	s.Helper()
	err, ok := receive(s, result)
	if !ok {
		s.Fatal("a call waits that should return")
	}
	return err
}

// returnsAfterHold checks that a call, made at start, waits for the hold time and then returns an error.
func (s *suite) returnsAfterHold(result <-chan error, start time.Time, want error) {
	s.Helper()
	if !s.realTime {
		time.Sleep(time.Until(start.Add(s.limits.Hold)) - time.Nanosecond)
		s.waits(result)
		time.Sleep(time.Nanosecond)
	}
	s.is(s.returned(result), want)
	s.took(start, s.limits.Hold)
}

func (s *suite) state(address string) broker.State {
	s.Helper()
	state, err := s.State(s.Context(), address)
	s.no(err)
	return state
}

// holds checks how many messages a channel holds.
func (s *suite) holds(address string, pending, inFlight int) {
	s.Helper()
	var state broker.State
	if !s.eventually(func() bool {
		state = s.state(address)
		return state.Pending == pending && state.InFlight == inFlight
	}) {
		s.Fatalf("%d messages are pending and %d in flight, want %d and %d", state.Pending, state.InFlight, pending, inFlight)
	}
}

// holdsProducers checks in how many calls a producer waits for room in a channel.
func (s *suite) holdsProducers(address string, count int) {
	s.Helper()
	var state broker.State
	if !s.eventually(func() bool {
		state = s.state(address)
		return state.HeldProducers == count
	}) {
		s.Fatalf("%d calls wait for room, want %d", state.HeldProducers, count)
	}
}

// gone reports whether a channel does not exist.
func (s *suite) gone(address string) bool {
	s.Helper()
	_, err := s.State(s.Context(), address)
	if err != nil {
		s.is(err, broker.ErrNotFound)
	}
	return err != nil
}

// same reports whether messages say the same.
func same(a, b []*broker.Message) bool {
	return slices.EqualFunc(a, b, func(a, b *broker.Message) bool {
		return a.ID() == b.ID() && bytes.Equal(a.Line(), b.Line())
	})
}

// lines shows messages in a failure.
func lines(ms []*broker.Message) []string {
	var text []string
	for _, m := range ms {
		line := bytes.TrimSpace(m.Line())
		text = append(text, string(line[:min(len(line), 200)]))
	}
	return text
}
