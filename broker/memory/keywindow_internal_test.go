package memory

import (
	"fmt"
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

func TestKeyWindowHasTheLastKeys(t *testing.T) {
	var none *keyWindow
	if none.has(broker.KeyedEventID("0")) {
		t.Error("a nil window has a key")
	}
	var w keyWindow
	const total = 3*broker.KeyWindow + broker.KeyWindow/2
	for i := range total {
		w.add(broker.KeyedEventID(fmt.Sprint(i)))
	}
	for i := range total {
		if has, want := w.has(broker.KeyedEventID(fmt.Sprint(i))), i >= total-broker.KeyWindow; has != want {
			t.Errorf("after %d keys, the window has number %d: %v, want %v", total, i, has, want)
		}
	}
	if cap(w.ids) > broker.KeyWindow {
		t.Errorf("the window has %d places", cap(w.ids))
	}
}

func TestChannelWithoutKeysHasNoKeyWindow(t *testing.T) {
	b := New()
	defer b.Close()
	a, err := b.Create(t.Context(), "main", brokerfixture.Limits)
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.lookup(a.Consumer, consumerKind)
	if err != nil {
		t.Fatal(err)
	}
	for i, key := range []string{"", "key"} {
		sub, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits})
		if err != nil {
			t.Fatal(err)
		}
		m, err := broker.NewMessage("stream", []byte("null"), key)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Publish(t.Context(), a.Producer, m, brokerfixture.Limits); err != nil {
			t.Fatal(err)
		}
		sub.Take(nil, 64<<10)
		sub.Received(1)
		sub.End(broker.EndClean)
		if (c.letGoKeys != nil) != (i == 1) {
			t.Errorf("after a message with the key %q, the window is %v", key, c.letGoKeys)
		}
	}
}

// BenchmarkKeyWindow measures what a write with a new key costs more than one without a key, once a channel has let
// many keyed messages go.
func BenchmarkKeyWindow(b *testing.B) {
	var w keyWindow
	for i := range broker.KeyWindow {
		w.add(broker.KeyedEventID(fmt.Sprint(i)))
	}
	id := broker.KeyedEventID("new")
	for b.Loop() {
		if w.has(id) {
			b.Fatal("found")
		}
	}
}
