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

// A heldProducer is a producer that waits for room.
type heldProducer struct {
	message *broker.Message
	result  chan error
	cancel  context.CancelFunc
}

// message makes a message. Some messages have a key, and an earlier message may have had the same one. Some are merged.
func (m *model) message(t *rapid.T) *broker.Message {
	key := ""
	if rapid.IntRange(0, 3).Draw(t, "keyed") == 0 {
		m.keys++
		key = fmt.Sprint(rapid.IntRange(0, m.keys).Draw(t, "key")) // a duplicate may come late
	}
	stream := rapid.SampledFrom([]string{"stream", "another"}).Draw(t, "stream")
	body := rapid.SampledFrom([]string{`null`, `"text"`, `["list"]`}).Draw(t, "body")
	message, err := broker.NewMessage(stream, []byte(body), key)
	if err != nil {
		t.Fatal(err)
	}
	return message.WithMerge(rapid.SampledFrom([]broker.Merge{0, 0, broker.MergeReplace, broker.MergeAppend}).Draw(t, "merge"))
}

// pending is how many messages are pending.
func (m *model) pending() int { return len(m.accepted) - m.letGo - m.inFlight }

// merges reports whether a message is merged with the newest pending one.
func (m *model) merges(message *broker.Message) bool {
	return m.pending() > 0 && message.CanMerge(m.accepted[len(m.accepted)-1], m.limits.MaxMessage)
}

// isDuplicate reports whether a message has the key of one that the channel holds, or of one of the last
// [broker.KeyWindow] keyed messages that it has let go.
func (m *model) isDuplicate(message *broker.Message) bool {
	letGo := 0
	if slices.Contains(m.merged, message.ID()) {
		return true
	}
	for i := len(m.accepted) - 1; i >= 0 && letGo < broker.KeyWindow; i-- {
		if m.accepted[i].ID() == message.ID() {
			return true
		}
		if i < m.letGo && m.accepted[i].ID().Version() == 5 {
			letGo++
		}
	}
	return false
}

// full reports whether a new message must wait for room.
func (m *model) full(message *broker.Message) bool {
	return m.pending() >= m.limits.Buffer && !m.merges(message)
}

// publish writes a message without waiting for room.
func (m *model) publish(t *rapid.T) {
	message := m.message(t)
	err := m.broker.Publish(t.Context(), m.addresses.Producer, message, m.limits)
	switch {
	case m.isDuplicate(message):
		if err != nil {
			t.Fatalf("a duplicate fails with %v", err)
		}
		m.duplicates++
	case m.full(message) || len(m.held) > 0:
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

// accept adds a message that the channel must have taken.
func (m *model) accept(message *broker.Message) {
	m.total++
	if !m.merges(message) {
		m.accepted = append(m.accepted, message)
		return
	}
	newest := len(m.accepted) - 1
	if m.accepted[newest].Keyed() {
		m.merged = append(m.merged, m.accepted[newest].ID())
	}
	m.accepted[newest] = message.MergeWith(m.accepted[newest])
	m.mergedAll++
}

// publishHeld writes a message, and waits for room for it. At most three producers wait at once.
func (m *model) publishHeld(t *rapid.T) {
	if len(m.held) == 3 {
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	h := &heldProducer{m.message(t), make(chan error, 1), cancel}
	limits := m.limits
	limits.Hold = 1000 * time.Hour
	go func() { h.result <- m.broker.Publish(ctx, m.addresses.Producer, h.message, limits) }()
	synctest.Wait()
	if m.isDuplicate(h.message) {
		m.duplicates++
		h.expect(t, nil)
		return
	}
	m.held = append(m.held, h)
	m.admit(t)
}

// admit admits held producers while there is room, and checks that exactly these have returned.
func (m *model) admit(t *rapid.T) {
	synctest.Wait()
	for len(m.held) > 0 && (m.isDuplicate(m.held[0].message) || !m.full(m.held[0].message)) {
		h := m.held[0]
		if m.held = m.held[1:]; m.isDuplicate(h.message) {
			m.duplicates++
		} else {
			m.accept(h.message)
		}
		h.expect(t, nil)
	}
	for _, h := range m.held {
		select {
		case err := <-h.result:
			t.Fatalf("a held producer returns %v", err)
		default:
		}
	}
}

// expect checks that the producer has returned an error or nil.
func (h *heldProducer) expect(t *rapid.T, want error) {
	defer h.cancel()
	select {
	case err := <-h.result:
		if !errors.Is(err, want) {
			t.Fatalf("a held producer returns %v, want %v", err, want)
		}
	default:
		t.Fatal("a producer is held forever")
	}
}

// cancel cancels one of the held producers.
func (m *model) cancel(t *rapid.T) {
	if len(m.held) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.held)-1).Draw(t, "producer")
	h := m.held[i]
	m.held = slices.Delete(m.held, i, i+1)
	h.cancel()
	synctest.Wait()
	if m.isDuplicate(h.message) {
		m.duplicates++
		h.expect(t, nil)
	} else {
		h.expect(t, context.Canceled)
	}
	m.admit(t)
}
