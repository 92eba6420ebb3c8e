package redis_test

import (
	"fmt"
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
)

// TestKeysOfMergedMessagesAreForgotten: a channel remembers them like those of messages that it has let go, and no more of them.
func TestKeysOfMergedMessagesAreForgotten(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	b := open(t, s.options("test:"))
	a := create(t, b)
	publish := func(key string) bool {
		t.Helper()
		before := b.Stats().Duplicates
		m, err := broker.NewMessage("stream", []byte("1"), key)
		if err == nil {
			err = b.Publish(t.Context(), a.Producer, m.WithMerge(broker.MergeReplace), faultLimits)
		}
		if err != nil {
			t.Fatal(err)
		}
		return b.Stats().Duplicates > before
	}
	const messages = 400
	for i := range messages {
		if publish(fmt.Sprint("key ", i)) {
			t.Fatalf("message %d counts as a duplicate", i)
		}
	}
	publish("") // which has no key itself
	for key, want := range map[string]bool{
		fmt.Sprint("key ", messages-1): true, fmt.Sprint("key ", messages-broker.KeyWindow): true,
	} {
		if got := publish(key); got != want {
			t.Errorf("%s counts as a duplicate: %v", key, got)
		}
	}
	names, err := s.command(t, "KEYS", "test:*i*").AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if kind, _ := s.command(t, "TYPE", name).ToString(); kind != "set" {
			continue
		}
		if n, err := s.command(t, "SCARD", name).AsInt64(); err != nil || n > broker.KeyWindow+40 {
			t.Errorf("the channel remembers %d keys: %v", n, err)
		}
		return
	}
	t.Error("the channel remembers no key")
}
