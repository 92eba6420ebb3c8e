package megaphone

import (
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/conn"
)

// HeldBytes returns how many bytes of messages wait for room in channels.
func HeldBytes() (n int64) {
	registries.Range(func(_, pooled any) bool {
		n += broker.StatsOf(pooled.(*registry).broker).HeldBytes
		return true
	})
	return n
}

// Started returns how many configurations have started Megaphone.
func Started() (n int) {
	registries.Range(func(_, pooled any) bool {
		active := &pooled.(*registry).active
		active.mu.Lock()
		defer active.mu.Unlock()
		n = len(active.apps)
		return true
	})
	return n
}

// ConnOf returns the connection of a request as Megaphone knows it.
var ConnOf = conn.Of

// SampleDirectWrites makes one in about n direct writes a sample, until the test ends.
func SampleDirectWrites(tb testing.TB, n int) {
	was := sampleEvery
	sampleEvery = n
	tb.Cleanup(func() { sampleEvery = was })
}
