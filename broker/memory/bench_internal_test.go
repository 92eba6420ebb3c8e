package memory

import (
	"bytes"
	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// The targets that stand beside the benchmarks hold for one core of a small server.

// BenchmarkPublishDeliver: a message of 100 bytes from its body to its reader. Target: 1 µs, 3 allocations.
func BenchmarkPublishDeliver(b *testing.B) {
	b.ReportAllocs()
	deliver, stop := deliverer(b)
	defer stop()
	for b.Loop() {
		deliver()
	}
}

// deliverer returns a function that publishes one message and takes it.
func deliverer(tb testing.TB) (deliver, stop func()) {
	tb.Helper()
	r := New()
	a, err := r.Create(tb.Context(), "main", brokerfixture.Limits)
	if err != nil {
		tb.Fatal(err)
	}
	sub, err := r.Subscribe(tb.Context(), a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits})
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
		if err := r.Publish(tb.Context(), a.Producer, m, brokerfixture.Limits); err != nil {
			tb.Fatal(err)
		}
		<-sub.Ready()
		ms, _ = sub.Take(ms[:0], 64<<10)
		taken += len(ms)
		sub.Received(taken)
	}, r.Close
}

func TestPublishAndDeliverAllocateLittle(t *testing.T) {
	deliver, stop := deliverer(t)
	defer stop()
	if allocations := testing.AllocsPerRun(1000, deliver); allocations > 3 {
		t.Errorf("%v allocations for each message", allocations)
	}
}

// BenchmarkCreate. Target: 2 µs.
func BenchmarkCreate(b *testing.B) {
	r := New()
	defer r.Close()
	for b.Loop() {
		if _, err := r.Create(b.Context(), "main", brokerfixture.Limits); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCreateAmongMany: the same, beside a hundred thousand others, as channels come and go. The map does not grow.
func BenchmarkCreateAmongMany(b *testing.B) {
	r, _ := million(b, 100_000)
	defer r.Close()
	var made []string
	for b.Loop() {
		a, err := r.Create(b.Context(), "main", brokerfixture.Limits)
		if err != nil {
			b.Fatal(err)
		}
		if made = append(made, a.Producer); len(made) == 1000 {
			b.StopTimer()
			for _, address := range made {
				if err := r.Delete(b.Context(), address); err != nil {
					b.Fatal(err)
				}
			}
			made = made[:0]
			b.StartTimer()
		}
	}
}

// million makes a registry with a million channels, and reports the heap that each takes.
func million(tb testing.TB, channels int) (r *Broker, bytesPerChannel float64) {
	tb.Helper()
	r = New()
	before := heap()
	for range channels {
		if _, err := r.Create(tb.Context(), "main", brokerfixture.Limits); err != nil {
			tb.Fatal(err)
		}
	}
	return r, float64(heap()-before) / float64(channels)
}

func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

func TestIdleChannelIsSmall(t *testing.T) {
	r, size := million(t, 100_000)
	defer r.Close()
	if size > 1<<10 {
		t.Errorf("an idle channel takes %.0f bytes", size)
	}
}

// BenchmarkSweep: one pass of the reaper over a million channels. Target: 100 ms, and 1 KiB for an idle channel.
func BenchmarkSweep(b *testing.B) {
	r, size := million(b, 1_000_000)
	defer r.Close()
	for b.Loop() {
		r.sweep()
	}
	b.ReportMetric(size, "B/channel")
}

// TestASweepOfAMillionChannelsDelaysNobody: with a million channels, a sweep and the sums take 100 ms at most, and calls
// made meanwhile do not wait for them.
func TestASweepOfAMillionChannelsDelaysNobody(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	r, _ := million(t, 1_000_000)
	defer r.Close()
	a, err := r.Create(t.Context(), "main", brokerfixture.Limits)
	if err != nil {
		t.Fatal(err)
	}
	// The fastest of several runs, since other things run on this machine.
	fastest := time.Hour
	for range 10 {
		start := time.Now()
		r.sweep()
		_ = r.Stats()
		fastest = min(fastest, time.Since(start))
	}
	if fastest > 100*time.Millisecond {
		t.Errorf("a sweep takes %v", fastest)
	}

	// A call during a sweep takes no longer than a part of it, whatever lock it needs.
	sweeping := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		defer close(sweeping)
		for range 3 {
			r.sweep()
			_ = r.Stats()
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
		if _, err := r.Create(t.Context(), "main", brokerfixture.Limits); err != nil {
			t.Fatal(err)
		}
		_ = r.Publish(t.Context(), a.Producer, brokerfixture.Message(t), broker.Limits{Buffer: 1 << 30, MaxMemory: 1 << 40})
		took = append(took, time.Since(start))
	}
	all.Wait()
	slices.Sort(took)
	if median, high := took[len(took)/2], took[len(took)*99/100]; high > 20*time.Millisecond {
		t.Errorf("of %d calls during sweeps, half took %v and one in a hundred more than %v", len(took), median, high)
	}
}
