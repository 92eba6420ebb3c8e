package megaphone

import (
	"fmt"
	"testing"
)

func TestAKeyWindowHasTheLastKeys(t *testing.T) {
	var none *keyWindow
	if none.has(KeyedEventID("0")) {
		t.Error("a window that is not there has a key")
	}
	var w keyWindow
	const total = 3*KeyWindow + KeyWindow/2
	for i := range total {
		w.add(KeyedEventID(fmt.Sprint(i)))
	}
	for i := range total {
		if has, want := w.has(KeyedEventID(fmt.Sprint(i))), i >= total-KeyWindow; has != want {
			t.Errorf("after %d keys, it has number %d: %v", total, i, has)
		}
	}
	if cap(w.ids) > KeyWindow {
		t.Errorf("it has %d places", cap(w.ids))
	}
}

func TestAChannelWithoutKeysHasNoKeyWindow(t *testing.T) {
	r := NewRegistry()
	defer r.Close()
	a, err := r.Create(t.Context(), "main", testLimits)
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.lookup(a.Consumer, consumerKind)
	if err != nil {
		t.Fatal(err)
	}
	for i, key := range []string{"", "key"} {
		sub, err := r.Subscribe(t.Context(), a.Consumer, SubscribeOptions{Limits: testLimits})
		if err != nil {
			t.Fatal(err)
		}
		m, err := NewMessage("stream", []byte("null"), key)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Publish(t.Context(), a.Producer, m, testLimits); err != nil {
			t.Fatal(err)
		}
		sub.Take(nil, maxTake)
		sub.Received(1)
		sub.End(EndClean)
		if (c.letGoKeys != nil) != (i == 1) {
			t.Errorf("after a message with the key %q: %v", key, c.letGoKeys)
		}
	}
}

// BenchmarkKeyWindow: what a write with a new key costs more than one without, once a channel has let many go.
func BenchmarkKeyWindow(b *testing.B) {
	var w keyWindow
	for i := range KeyWindow {
		w.add(KeyedEventID(fmt.Sprint(i)))
	}
	id := KeyedEventID("new")
	for b.Loop() {
		if w.has(id) {
			b.Fatal("found")
		}
	}
}
