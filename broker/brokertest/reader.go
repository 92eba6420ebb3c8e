package brokertest

import (
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A reader is a subscription that counts what it has taken.
type reader struct {
	broker.Subscription

	s     *suite
	taken int
}

// allBytes is more than the lines of all messages of a test have together.
const allBytes = 1 << 20

func (s *suite) subscribe(consumer string, options ...func(*broker.SubscribeOptions)) *reader {
	s.Helper()
	sub, err := s.trySubscribe(consumer, options...)
	s.no(err)
	return &reader{Subscription: sub, s: s}
}

func (s *suite) trySubscribe(consumer string, options ...func(*broker.SubscribeOptions)) (broker.Subscription, error) {
	o := broker.SubscribeOptions{Limits: s.limits}
	for _, set := range options {
		set(&o)
	}
	return s.Subscribe(s.Context(), consumer, o)
}

func takeOver(o *broker.SubscribeOptions)     { o.TakeOver, o.Follow = true, true }
func follow(o *broker.SubscribeOptions)       { o.Follow = true }
func redeliver(o *broker.SubscribeOptions)    { o.Redeliver = true }
func acknowledged(o *broker.SubscribeOptions) { o.Acknowledged, o.Follow = true, true }

func after(cursor string) func(*broker.SubscribeOptions) {
	return func(o *broker.SubscribeOptions) { o.After, o.TakeOver, o.Follow = cursor, true, true }
}

// takes compares all that there is to take with what is wanted.
func (r *reader) takes(want ...*broker.Message) {
	r.s.Helper()
	got := r.takeAtLeast(len(want))
	for r.ready(false) {
		got = r.take(got, allBytes)
	}
	if !same(got, want) {
		r.s.Fatalf("the reader took %q, want %q", lines(got), lines(want))
	}
}

// next takes n messages. Unlike takes, it does not check that there are no more.
func (r *reader) next(n int) []*broker.Message {
	r.s.Helper()
	got := r.takeAtLeast(n)
	if len(got) != n {
		r.s.Fatalf("the reader took %q, want %d messages", lines(got), n)
	}
	return got
}

// takeAtLeast takes what there is until it has n messages.
func (r *reader) takeAtLeast(n int) (got []*broker.Message) {
	r.s.Helper()
	for len(got) < n && r.ready(true) {
		got = r.take(got, allBytes)
	}
	return got
}

// one takes one message. It fails if there is none.
func (r *reader) one() *broker.Message {
	r.s.Helper()
	for r.ready(true) {
		switch got := r.take(nil, 1); {
		case len(got) == 1:
			return got[0]
		case len(got) > 1:
			r.s.Fatalf("the reader took %q, want only the first message", lines(got))
		}
	}
	r.s.Fatal("there is no message")
	return nil
}

// take calls Take, as a reader does after a value of Ready.
func (r *reader) take(dst []*broker.Message, maxBytes int) []*broker.Message {
	before := len(dst)
	dst, _ = r.Take(dst, maxBytes)
	r.taken += len(dst) - before
	return dst
}

// ready waits for a value of Ready, and reports whether there was one. It waits longer for a value that is expected.
func (r *reader) ready(expected bool) bool {
	if expected {
		_, ok := receive(r.s, r.Ready())
		return ok
	}
	return !silent(r.s, r.Ready())
}

// received reports to the Broker that everything that was taken has arrived.
func (r *reader) received() { r.Received(r.taken) }

// over checks that the subscription is over, and why.
func (r *reader) over(want error) {
	r.s.Helper()
	if _, ok := receive(r.s, r.Done()); !ok {
		r.s.Fatal("the subscription is not over")
	}
	r.s.is(r.Err(), want)
}

// expire reads a channel for a moment, so that it expires at the time that expire returns, and not much later.
func (s *suite) expire(consumer string) (at time.Time) {
	s.Helper()
	ttl := s.limits.TTL
	s.shortTTL()
	r := s.subscribe(consumer)
	at = time.Now().Add(s.limits.TTL)
	r.End(broker.EndFault)
	s.limits.TTL = ttl
	return at
}
