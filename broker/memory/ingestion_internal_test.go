package memory

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// A readChannel is a channel whose reader takes one message at a time.
type readChannel struct {
	broker.Addresses
	sub   broker.Subscription
	taken int
}

func newReadChannel(t *testing.T, b *Broker, l broker.Limits) *readChannel {
	t.Helper()
	a, err := b.Create(t.Context(), "main", l)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	return &readChannel{Addresses: a, sub: sub}
}

func (c *readChannel) take() {
	ms, _ := c.sub.Take(nil, 1)
	c.taken += len(ms)
	c.sub.Received(c.taken)
}

func keyedMessage(t *testing.T, body, key string) *broker.Message {
	t.Helper()
	m, err := broker.NewMessage("stream", []byte(body), key)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestIngestionDropsFinishedLines checks that a line which is held back does not make the ingestion keep the messages
// that other channels have taken meanwhile.
func TestIngestionDropsFinishedLines(t *testing.T) {
	const lines = 10_000
	b := New()
	defer b.Close()
	l := brokerfixture.Limits
	l.Buffer = 1
	stuck, busy := newReadChannel(t, b, l), newReadChannel(t, b, l)
	in := b.Ingest(l).(*ingestion)
	number := 0
	write := func(to *readChannel) {
		if err := in.Write(t.Context(), number, []byte(to.Producer), keyedMessage(t, strconv.Itoa(number), "")); err != nil {
			t.Fatal(err)
		}
		number++
	}
	write(stuck)
	write(stuck) // is held back
	for write(busy); number < lines; busy.take() {
		write(busy)
	}
	if held := len(in.heldLines()); held != 1 {
		t.Errorf("%d lines are held back", held)
	}
	if kept := len(in.held); kept > 2*maxDone {
		t.Errorf("%d lines are kept", kept)
	}
	for _, line := range in.held {
		if line.done && (line.message[0] != nil || line.ms != nil) {
			t.Error("the ingestion keeps the message of a finished line")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if result := in.Finish(ctx); result.Written != lines-1 || result.FailuresTotal != 1 {
		t.Errorf("%d written, %d failures", result.Written, result.FailuresTotal)
	}
}

// TestLineBehindDuplicateIsNotSkipped checks that a line which turns out to be a duplicate has not failed. So the line
// behind it waits for its whole hold time.
func TestLineBehindDuplicateIsNotSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New()
		defer b.Close()
		l := brokerfixture.Limits
		l.Buffer = 1
		c := newReadChannel(t, b, l)
		publish := func(body, key string, hold time.Duration) {
			l := l
			l.Hold = hold
			go func() { _ = b.Publish(context.Background(), c.Producer, keyedMessage(t, body, key), l) }()
			synctest.Wait()
		}
		publish("0", "", l.Hold)
		publish("1", "key", time.Hour) // is held
		publish("2", "", time.Hour)    // is held, in front of the lines
		in := b.Ingest(l)
		for number, key := range []string{"key", ""} {
			if err := in.Write(t.Context(), number, []byte(c.Producer), keyedMessage(t, "1", key)); err != nil {
				t.Fatal(err)
			}
			if number == 0 {
				time.Sleep(l.Hold / 2)
				c.take() // the channel takes the first message with the key
			}
		}
		began := time.Now()
		result := in.Finish(t.Context())
		if took := time.Since(began); took != l.Hold {
			t.Errorf("the last line was held for %v", took)
		}
		if got, want := fmt.Sprint(result), fmt.Sprint(broker.IngestResult{Written: 1, Failures: []broker.IngestFailure{{Number: 1, Producer: c.Producer, Err: broker.ErrTimeout}}, FailuresTotal: 1}); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}
