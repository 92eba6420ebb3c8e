package memory

import (
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// TestACursorShowsOneMessage though a kept message comes once more: a consumer that shows the same cursor again loses nothing that
// came in between.
func TestACursorShowsOneMessage(t *testing.T) {
	t.Parallel()
	b := New()
	defer b.Close()
	l := topicLimits()
	l.TopicKeep = broker.Keep{Bytes: 1 << 20, TTL: time.Hour}
	a, _ := newMember(t, b, l, "news")
	first := brokerfixture.Message(t)
	publish := func(m *broker.Message) {
		t.Helper()
		if _, err := b.PublishTopic(t.Context(), "news", m, broker.FullMiss, l); err != nil {
			t.Fatal(err)
		}
	}
	read := func(after string) (lines []string) {
		t.Helper()
		sub, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: l, Follow: true, After: after})
		if err != nil {
			t.Fatal(err)
		}
		ms, _ := sub.Take(nil, 1<<20)
		sub.End(broker.EndFault)
		for _, m := range ms {
			lines = append(lines, string(m.Line()))
		}
		return lines
	}
	publish(first)
	if lines := read(""); len(lines) != 1 {
		t.Fatalf("%q is read, want one message", lines)
	}
	between := brokerfixture.Message(t)
	if err := b.Publish(t.Context(), a.Producer, between, l); err != nil {
		t.Fatal(err)
	}
	if err := b.Leave(t.Context(), a.Producer, "news"); err != nil {
		t.Fatal(err)
	}
	if err := b.Join(t.Context(), a.Producer, broker.Join{Topic: "news", Last: broker.LastAll}, l); err != nil {
		t.Fatal(err)
	}
	for i := range 3 { // the consumer never sees what it is sent
		lines := read(first.ID().String())
		if len(lines) != 2 || lines[0] != string(between.Line()) {
			t.Fatalf("read %d has %q, want what came in between, and then the kept message", i, lines)
		}
	}
}
