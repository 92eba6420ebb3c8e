package redis_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

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
	remembersFewKeys(t, s)
}

// TestAJoinCopiesATextOnce, however many pieces a topic has kept of it, and remembers no more of their keys than of others.
func TestAJoinCopiesATextOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	b, l := open(t, s.options("test:")), topicLimits
	l.TopicKeep = broker.Keep{Bytes: 1 << 20, TTL: time.Hour}
	const pieces = 400
	var last *broker.Message
	for i := range pieces {
		var err error
		if last, err = broker.NewMessage("text", []byte(`"piece "`), fmt.Sprint("key ", i)); err != nil {
			t.Fatal(err)
		}
		if _, err := b.PublishTopic(t.Context(), "answer", last.WithMerge(broker.MergeAppend), broker.FullMiss, l); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.command(t, "CONFIG", "RESETSTAT").Error(); err != nil {
		t.Fatal(err)
	}
	a, err := b.CreateMember(t.Context(), "agent", []broker.Join{{Topic: "answer", Last: broker.LastAll}}, l)
	if err != nil {
		t.Fatal(err)
	}
	stats, err := s.command(t, "INFO", "commandstats").ToString()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(stats) {
		var calls int
		if _, err := fmt.Sscanf(line, "cmdstat_lset:calls=%d", &calls); err == nil && calls > 3 {
			t.Errorf("the text was written %d times", calls)
		}
	}
	ms, err := b.Peek(t.Context(), a.Consumer, 10)
	if err != nil || len(ms) != 1 || len(ms[0].Body()) != pieces*len("piece ")+len(`""`) || ms[0].ID() != last.ID() {
		t.Fatalf("the channel holds %d messages, error %v", len(ms), err)
	}
	remembersFewKeys(t, s)
}

// remembersFewKeys checks the sets of keys that channels remember. There must be one.
func remembersFewKeys(t *testing.T, s *server) {
	t.Helper()
	names, err := s.command(t, "KEYS", "test:*i*").AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	sets := 0
	for _, name := range names {
		if kind, _ := s.command(t, "TYPE", name).ToString(); kind != "set" {
			continue
		}
		sets++
		if n, err := s.command(t, "SCARD", name).AsInt64(); err != nil || n > broker.KeyWindow+40 {
			t.Errorf("%q has %d keys: %v", name, n, err)
		}
	}
	if sets == 0 {
		t.Error("no channel remembers keys")
	}
}
