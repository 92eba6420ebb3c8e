package megaphone

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A mailbox is a channel whose reader takes a message at a time.
type mailbox struct {
	Addresses
	sub   Subscription
	taken int
}

func newMailbox(t *testing.T, r *Registry, l Limits) *mailbox {
	t.Helper()
	a, err := r.Create(t.Context(), "main", l)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := r.Subscribe(t.Context(), a.Consumer, SubscribeOptions{Limits: l})
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

func keyedMessage(t *testing.T, body, key string) *Message {
	t.Helper()
	m, err := NewMessage("stream", []byte(body), key)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What other channels have taken is not kept because one holds its line back.
func TestAnIngestionKeepsNothingOfLinesThatAreDone(t *testing.T) {
	const lines = 10_000
	r := NewRegistry()
	defer r.Close()
	l := testLimits
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
		r := NewRegistry()
		defer r.Close()
		l := testLimits
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
		if got, want := fmt.Sprint(result), fmt.Sprint(IngestResult{Written: 1, Failures: []IngestFailure{{1, m.Producer, ErrTimeout}}, FailuresTotal: 1}); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

// White space that is removed from a body takes no memory.
func TestAMessageTakesNoMoreMemoryThanItCounts(t *testing.T) {
	for _, body := range []string{
		fmt.Sprintf("%1000000s", "1"),
		"{\n    \"name\": \"value\",\n    \"list\": [\n        1,\n        2,\n        3\n    ]\n}",
	} {
		m := keyedMessage(t, body, "")
		if unused := cap(m.line) - len(m.line); unused > len(m.line)/4 && unused > messageOverhead {
			t.Errorf("%d bytes are kept for a line of %d", cap(m.line), len(m.line))
		}
	}
}

// What a consumer cannot read is refused: the body stands in the line's object.
func TestTheLineOfAMessageIsNotTooDeep(t *testing.T) {
	for depth, valid := range map[int]bool{maxDepth - 1: true, maxDepth: false} {
		m, err := NewMessage("stream", []byte(strings.Repeat("[", depth)+strings.Repeat("]", depth)), "")
		if (err == nil) != valid || err == nil && !json.Valid(m.Line()) {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}
