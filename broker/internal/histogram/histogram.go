// Package histogram counts durations for the statistics of Brokers.
package histogram

import (
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// Bounds of the histograms of [broker.Stats]. A last bucket has all longer durations.
var (
	Wait = []time.Duration{
		time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
		500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second,
	}
	Delay = []time.Duration{
		100 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond,
		50 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, time.Second, 5 * time.Second,
		20 * time.Second, time.Minute,
	}
	// Life has those of the original Megaphone too.
	Life = []time.Duration{
		10 * time.Second, 30 * time.Second, time.Minute, 80 * time.Second, 2 * time.Minute, 160 * time.Second, 5 * time.Minute,
		320 * time.Second, 640 * time.Second, 15 * time.Minute, 1280 * time.Second, 2560 * time.Second, time.Hour,
		5120 * time.Second, 10240 * time.Second, 4 * time.Hour, 20480 * time.Second, 12 * time.Hour, 24 * time.Hour,
		7 * 24 * time.Hour,
	}
)

// maxBuckets is the number of bounds of the longest histogram, plus one.
const maxBuckets = 21

// A Histogram counts durations by their size. Its zero value is empty. Any number of goroutines may use it.
type Histogram struct {
	counts [maxBuckets]atomic.Uint64
	sum    atomic.Int64 // nanoseconds
}

// Observe counts n equal durations. A histogram always has the same bounds, of which there are at most as many as in [Life].
func (h *Histogram) Observe(bounds []time.Duration, d time.Duration, n int) {
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	h.counts[i].Add(uint64(n)) //nolint:gosec // not negative
	h.sum.Add(int64(max(d, 0)) * int64(n))
}

// Sum returns what histograms with the same bounds have counted together.
func Sum(bounds []time.Duration, parts ...*Histogram) broker.Histogram {
	s := broker.Histogram{Bounds: bounds, Cumulative: make([]uint64, len(bounds))}
	for _, h := range parts {
		var count uint64
		for i := range bounds {
			count += h.counts[i].Load()
			s.Cumulative[i] += count
		}
		s.Count += count + h.counts[len(bounds)].Load()
		s.Sum += time.Duration(h.sum.Load())
	}
	return s
}
