package memory_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A held is a producer that waits for room.
type held struct {
	message *broker.Message
	result  chan error
	leave   context.CancelFunc
}

func (m *model) message(t *rapid.T) *broker.Message {
	key := ""
	if rapid.IntRange(0, 3).Draw(t, "keyed") == 0 {
		m.keys++
		key = fmt.Sprint(rapid.IntRange(0, m.keys).Draw(t, "key")) // a repeat may come late
	}
	message, err := broker.NewMessage("stream", []byte("null"), key)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

// repeats reports whether a message has the key of one that is held, or was among the last keyed ones that were let go.
func (m *model) repeats(message *broker.Message) bool {
	letGo := 0
	for i := len(m.accepted) - 1; i >= 0 && letGo < broker.KeyWindow; i-- {
		if m.accepted[i].ID() == message.ID() {
			return true
		}
		if i < m.released && m.accepted[i].ID().Version() == 5 {
			letGo++
		}
	}
	return false
}

func (m *model) full() bool { return len(m.accepted)-m.released-m.inFlight >= m.limits.Buffer }

// publish writes a message without waiting for room.
func (m *model) publish(t *rapid.T) {
	message := m.message(t)
	err := m.registry.Publish(t.Context(), m.addresses.Producer, message, m.limits)
	switch {
	case m.repeats(message):
		if err != nil {
			t.Fatalf("a repeat fails with %v", err)
		}
		m.repeated++
	case m.full() || len(m.held) > 0:
		if err == nil {
			t.Fatal("a full channel has taken a message")
		}
	default:
		if err != nil {
			t.Fatalf("publish: %v", err)
		}
		m.accept(message)
	}
}

func (m *model) accept(message *broker.Message) {
	m.accepted = append(m.accepted, message)
	m.total++
}

// hold writes a message, and waits for room for it.
func (m *model) hold(t *rapid.T) {
	if len(m.held) == 3 {
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	h := &held{m.message(t), make(chan error, 1), cancel}
	limits := m.limits
	limits.Hold = 1000 * time.Hour
	go func() { h.result <- m.registry.Publish(ctx, m.addresses.Producer, h.message, limits) }()
	synctest.Wait()
	if m.repeats(h.message) {
		m.repeated++
		h.returns(t, nil)
		return
	}
	m.held = append(m.held, h)
	m.admit(t)
}

// admit takes those in line for whom there is room, and checks that just these wait no more.
func (m *model) admit(t *rapid.T) {
	synctest.Wait()
	for len(m.held) > 0 && (m.repeats(m.held[0].message) || !m.full()) {
		h := m.held[0]
		if m.held = m.held[1:]; m.repeats(h.message) {
			m.repeated++
		} else {
			m.accept(h.message)
		}
		h.returns(t, nil)
	}
	for _, h := range m.held {
		select {
		case err := <-h.result:
			t.Fatalf("a producer that is held gets %v", err)
		default:
		}
	}
}

func (h *held) returns(t *rapid.T, want error) {
	defer h.leave()
	select {
	case err := <-h.result:
		if !errors.Is(err, want) {
			t.Fatalf("a producer that was held gets %v, want %v", err, want)
		}
	default:
		t.Fatal("a producer is held for ever")
	}
}

// leave lets one of those that wait go.
func (m *model) leave(t *rapid.T) {
	if len(m.held) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.held)-1).Draw(t, "who")
	h := m.held[i]
	m.held = slices.Delete(m.held, i, i+1)
	h.leave()
	synctest.Wait()
	if m.repeats(h.message) {
		m.repeated++
		h.returns(t, nil)
	} else {
		h.returns(t, context.Canceled)
	}
	m.admit(t)
}
