package memory

import (
	"bytes"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// The targets in the comments are for one core of a small server.

// BenchmarkPublishDeliver takes a message of 100 bytes from its body to its reader. Target: 1 µs, 3 allocations.
func BenchmarkPublishDeliver(b *testing.B) {
	b.ReportAllocs()
	deliver, stop := deliverer(b)
	defer stop()
	for b.Loop() {
		deliver()
	}
}

// deliverer returns a function that publishes one message and takes it, and one that closes the Broker.
func deliverer(tb testing.TB) (deliver, stop func()) {
	tb.Helper()
	b := New()
	a, err := b.Create(tb.Context(), "main", brokerfixture.Limits)
	if err != nil {
		tb.Fatal(err)
	}
	sub, err := b.Subscribe(tb.Context(), a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits})
	if err != nil {
		tb.Fatal(err)
	}
	body := []byte(`"` + string(bytes.Repeat([]byte("x"), 98)) + `"`)
	var ms []*broker.Message
	taken := 0
	return func() {
		m, err := broker.NewMessage("stream", body, "")
		if err != nil {
			tb.Fatal(err)
		}
		if err := b.Publish(tb.Context(), a.Producer, m, brokerfixture.Limits); err != nil {
			tb.Fatal(err)
		}
		<-sub.Ready()
		ms, _ = sub.Take(ms[:0], 64<<10)
		taken += len(ms)
		sub.Received(taken)
	}, b.Close
}

func TestPublishAndDeliverAllocateLittle(t *testing.T) {
	deliver, stop := deliverer(t)
	defer stop()
	if allocations := testing.AllocsPerRun(1000, deliver); allocations > 3 {
		t.Errorf("%v allocations for each message", allocations)
	}
}

// BenchmarkCreate creates channels, and keeps them all. Target: 2 µs.
func BenchmarkCreate(b *testing.B) {
	br := New()
	defer br.Close()
	for b.Loop() {
		if _, err := br.Create(b.Context(), "main", brokerfixture.Limits); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCreateAmongMany creates channels beside 100,000 others, and deletes them again. So the map does not grow.
func BenchmarkCreateAmongMany(b *testing.B) {
	br, _ := brokerWith(b, 100_000)
	defer br.Close()
	var made []string
	for b.Loop() {
		a, err := br.Create(b.Context(), "main", brokerfixture.Limits)
		if err != nil {
			b.Fatal(err)
		}
		if made = append(made, a.Producer); len(made) == 1000 {
			b.StopTimer()
			for _, address := range made {
				if err := br.Delete(b.Context(), address); err != nil {
					b.Fatal(err)
				}
			}
			made = made[:0]
			b.StartTimer()
		}
	}
}

// brokerWith returns a Broker with so many channels, and the heap that each of them takes.
func brokerWith(tb testing.TB, channels int) (b *Broker, bytesPerChannel float64) {
	tb.Helper()
	b = New()
	before := heap()
	for range channels {
		if _, err := b.Create(tb.Context(), "main", brokerfixture.Limits); err != nil {
			tb.Fatal(err)
		}
	}
	return b, float64(heap()-before) / float64(channels)
}

func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

func TestIdleChannelIsSmall(t *testing.T) {
	b, size := brokerWith(t, 100_000)
	defer b.Close()
	if size > 1<<10 {
		t.Errorf("an idle channel takes %.0f bytes", size)
	}
}

// BenchmarkSweep sweeps a million channels. Target: 100 ms, and 1 KiB for an idle channel.
func BenchmarkSweep(b *testing.B) {
	br, size := brokerWith(b, 1_000_000)
	defer br.Close()
	for b.Loop() {
		br.sweep()
	}
	b.ReportMetric(size, "B/channel")
}

// TestSweepOfManyChannelsDelaysNoCall checks that a sweep and Stats take 100 ms at most with up to a million channels,
// and that calls made meanwhile do not wait for them.
func TestSweepOfManyChannelsDelaysNoCall(t *testing.T) {
	if testing.Short() {
		t.Skip("makes many channels")
	}
	b, _ := brokerWith(t, brokerfixture.Many())
	defer b.Close()
	a, err := b.Create(t.Context(), "main", brokerfixture.Limits)
	if err != nil {
		t.Fatal(err)
	}
	// The fastest of several runs counts, because other programs use the same caches.
	fastest := time.Hour
	for range 10 {
		fastest = min(fastest, timeOf(t, func() {
			b.sweep()
			_ = b.Stats()
		}))
	}
	if fastest > 100*time.Millisecond {
		t.Errorf("a sweep and Stats take %v", fastest)
	}

	// A call during a sweep takes no longer than a part of the sweep, whatever lock it needs.
	sweeping := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		defer close(sweeping)
		for range 10 {
			b.sweep()
			_ = b.Stats()
		}
	})
	var took []time.Duration
	for done := false; !done; {
		select {
		case <-sweeping:
			done = true
		default:
		}
		start := time.Now()
		if _, err := b.Create(t.Context(), "main", brokerfixture.Limits); err != nil {
			t.Fatal(err)
		}
		_ = b.Publish(t.Context(), a.Producer, brokerfixture.Message(t), broker.Limits{Buffer: 1 << 30, MaxMemory: 1 << 40})
		took = append(took, time.Since(start))
	}
	all.Wait()
	slices.Sort(took)
	if median, high := took[len(took)/2], took[len(took)*99/100]; high > 20*time.Millisecond {
		t.Errorf("of %d calls during sweeps, half took %v and one in a hundred more than %v", len(took), median, high)
	}
}

// BenchmarkLookForWaiting looks through 100,000 channels that nobody reads and that hold nothing. Target: 10 ms, which is spent at
// most once a second.
func BenchmarkLookForWaiting(b *testing.B) {
	broker, limits := New(), brokerfixture.Limits
	defer broker.Close()
	limits.MaxChannels = 100_000
	for range limits.MaxChannels {
		if _, err := broker.Create(b.Context(), "main", limits); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		for c := range broker.list.all() {
			if _, ok := c.tellWaiting(time.Minute); ok {
				b.Fatal("a channel without messages is reported")
			}
		}
	}
}
