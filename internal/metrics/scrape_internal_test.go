package metrics

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// scraper returns a function that collects all metrics of a Broker with so many channels.
func scraper(tb testing.TB, channels int) (scrape func()) {
	tb.Helper()
	b := memory.New()
	tb.Cleanup(b.Close)
	for range channels {
		if _, err := b.Create(tb.Context(), "main", brokerfixture.Limits); err != nil {
			tb.Fatal(err)
		}
	}
	registry := prometheus.NewPedanticRegistry()
	if err := New(b, testEndpoints, testLimits).Register(registry, brokerfixture.Limits, nil); err != nil {
		tb.Fatal(err)
	}
	return func() {
		if _, err := registry.Gather(); err != nil {
			tb.Fatal(err)
		}
	}
}

// BenchmarkScrape collects all metrics, with a million channels. Target: 100 ms.
func BenchmarkScrape(b *testing.B) {
	scrape := scraper(b, 1_000_000)
	for b.Loop() {
		scrape()
	}
}

// TestAScrapeWithManyChannelsIsFast checks that a scrape takes 100 ms at most with up to a million channels.
func TestAScrapeWithManyChannelsIsFast(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	scrape := scraper(t, brokerfixture.Many())
	// The fastest of several runs counts, since the machine does other things too.
	fastest := time.Hour
	for range 10 {
		start := time.Now()
		scrape()
		fastest = min(fastest, time.Since(start))
	}
	if fastest > 100*time.Millisecond {
		t.Errorf("a scrape takes %v, want 100ms at most", fastest)
	}
}
