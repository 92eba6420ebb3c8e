package memory

import (
	"context"
	"fmt"
	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// A mailbox is a channel whose reader takes a message at a time.
type mailbox struct {
	broker.Addresses
	sub   broker.Subscription
	taken int
}

func newMailbox(t *testing.T, r *Broker, l broker.Limits) *mailbox {
	t.Helper()
	a, err := r.Create(t.Context(), "main", l)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := r.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	return &mailbox{Addresses: a, sub: sub}
}

func (m *mailbox) take() {
	ms, _ := m.sub.Take(nil, 1)
	m.taken += len(ms)
	m.sub.Received(m.taken)
}

func keyedMessage(t *testing.T, body, key string) *broker.Message {
	t.Helper()
	m, err := broker.NewMessage("stream", []byte(body), key)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What other channels have taken is not kept because one holds its line back.
func TestAnIngestionKeepsNothingOfLinesThatAreDone(t *testing.T) {
	const lines = 10_000
	r := New()
	defer r.Close()
	l := brokerfixture.Limits
	l.Buffer = 1
	stuck, busy := newMailbox(t, r, l), newMailbox(t, r, l)
	in := r.Ingest(l).(*ingestion)
	number := 0
	write := func(to *mailbox) {
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
			t.Error("the message of a line that is done is kept")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if result := in.Finish(ctx); result.Written != lines-1 || result.FailuresTotal != 1 {
		t.Errorf("%d written, %d failures", result.Written, result.FailuresTotal)
	}
}

// A line that turns out to be a repeat has not failed, so the next one has its whole time.
func TestALineBehindARepeatIsNotSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New()
		defer r.Close()
		l := brokerfixture.Limits
		l.Buffer = 1
		m := newMailbox(t, r, l)
		publish := func(body, key string, hold time.Duration) {
			l := l
			l.Hold = hold
			go func() { _ = r.Publish(context.Background(), m.Producer, keyedMessage(t, body, key), l) }()
			synctest.Wait()
		}
		publish("0", "", l.Hold)
		publish("1", "key", time.Hour) // is held
		publish("2", "", time.Hour)    // is in front of the lines
		in := r.Ingest(l)
		for number, key := range []string{"key", ""} {
			if err := in.Write(t.Context(), number, []byte(m.Producer), keyedMessage(t, "1", key)); err != nil {
				t.Fatal(err)
			}
			if number == 0 {
				time.Sleep(l.Hold / 2)
				m.take() // the first with the key gets in
			}
		}
		began := time.Now()
		result := in.Finish(t.Context())
		if took := time.Since(began); took != l.Hold {
			t.Errorf("the last line was held for %v", took)
		}
		if got, want := fmt.Sprint(result), fmt.Sprint(broker.IngestResult{Written: 1, Failures: []broker.IngestFailure{{Number: 1, Producer: m.Producer, Err: broker.ErrTimeout}}, FailuresTotal: 1}); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}
