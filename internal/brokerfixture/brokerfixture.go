// Package brokerfixture has limits and messages for tests of package broker and of its users.
package brokerfixture

import (
	"os"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// Limits are limits that most tests never reach.
var Limits = broker.Limits{
	Buffer: 100, InFlight: 100, Hold: 10 * time.Second, TTL: time.Minute, MaxChannels: 10_000_000, MaxMemory: 1 << 30,
	MaxMessage: 1 << 20, MaxTopics: 1000,
}

// Message returns a new message without a key.
func Message(tb testing.TB) *broker.Message {
	tb.Helper()
	m, err := broker.NewMessage("stream", []byte(`"body"`), "")
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// Many returns how many channels a test makes to see that none of them delays the others: 100,000, or a million if
// MEGAPHONE_MILLION is set, which takes ten times as long.
func Many() int {
	if os.Getenv("MEGAPHONE_MILLION") == "" {
		return 100_000
	}
	return 1_000_000
}
