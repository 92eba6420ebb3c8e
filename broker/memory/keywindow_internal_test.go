package memory

import (
	"fmt"
	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"testing"
)

func TestAKeyWindowHasTheLastKeys(t *testing.T) {
	var none *keyWindow
	if none.has(broker.KeyedEventID("0")) {
		t.Error("a window that is not there has a key")
	}
	var w keyWindow
	const total = 3*broker.KeyWindow + broker.KeyWindow/2
	for i := range total {
		w.add(broker.KeyedEventID(fmt.Sprint(i)))
	}
	for i := range total {
		if has, want := w.has(broker.KeyedEventID(fmt.Sprint(i))), i >= total-broker.KeyWindow; has != want {
			t.Errorf("after %d keys, it has number %d: %v", total, i, has)
		}
	}
	if cap(w.ids) > broker.KeyWindow {
		t.Errorf("it has %d places", cap(w.ids))
	}
}

func TestAChannelWithoutKeysHasNoKeyWindow(t *testing.T) {
	r := New()
	defer r.Close()
	a, err := r.Create(t.Context(), "main", brokerfixture.Limits)
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.lookup(a.Consumer, consumerKind)
	if err != nil {
		t.Fatal(err)
	}
	for i, key := range []string{"", "key"} {
		sub, err := r.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits})
		if err != nil {
			t.Fatal(err)
		}
		m, err := broker.NewMessage("stream", []byte("null"), key)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Publish(t.Context(), a.Producer, m, brokerfixture.Limits); err != nil {
			t.Fatal(err)
		}
		sub.Take(nil, 64<<10)
		sub.Received(1)
		sub.End(broker.EndClean)
		if (c.letGoKeys != nil) != (i == 1) {
			t.Errorf("after a message with the key %q: %v", key, c.letGoKeys)
		}
	}
}

// BenchmarkKeyWindow: what a write with a new key costs more than one without, once a channel has let many go.
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
