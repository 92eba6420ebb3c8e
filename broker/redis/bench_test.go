package redis_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
)

// BenchmarkDelivered measures what a message costs Redis that is published, delivered and settled. Producers write to one node
// at once, readers are on another. The share of XADD is of what Redis does in the same processor time:
// `redis-benchmark -P 64 XADD` takes as much for a message.
func BenchmarkDelivered(b *testing.B) {
	if !enabled() {
		b.Skip("needs redis-server: MEGAPHONE_REDIS=1")
	}
	for _, channels := range []int{64, 1} {
		for _, keyed := range []bool{false, true} {
			b.Run(fmt.Sprintf("channels=%d/keyed=%v", channels, keyed), func(b *testing.B) {
				benchmarkDelivered(b, channels, 64, func(p int, producers []string) ([]string, string) {
					key := ""
					if keyed {
						key = rand.Text()
					}
					return producers[p%channels : p%channels+1], key
				})
			})
		}
	}
	b.Run("shared by 100", func(b *testing.B) {
		benchmarkDelivered(b, 100, 8, func(_ int, producers []string) ([]string, string) { return producers, "" })
	})
}

// TestCost: what a message costs Redis stays in proportion to an XADD. The bounds are a little below what was measured on a busy
// machine, and a cost counts as too high if it is so five times.
func TestCost(t *testing.T) {
	if os.Getenv("MEGAPHONE_REDIS") != "bench" {
		t.Skip("needs redis-server and redis-benchmark, and takes twenty seconds: MEGAPHONE_REDIS=bench")
	}
	for _, c := range []struct {
		what                string
		channels, producers int
		least               float64
		choose              func(p int, producers []string) ([]string, string)
	}{
		{"messages to 64 channels", 64, 64, 0.2, func(p int, all []string) ([]string, string) { return all[p : p+1], "" }},
		{"keyed messages", 64, 64, 0.14, func(p int, all []string) ([]string, string) { return all[p : p+1], rand.Text() }},
		{"one message to 100 channels", 100, 8, 0.5, func(_ int, all []string) ([]string, string) { return all, "" }},
	} {
		share := 0.0
		for range 5 {
			result := testing.Benchmark(func(b *testing.B) { benchmarkDelivered(b, c.channels, c.producers, c.choose) })
			share = max(share, result.Extra["of-XADD"])
			if t.Logf("%s: %.3f of XADD", c.what, result.Extra["of-XADD"]); share >= c.least {
				break
			}
		}
		if share < c.least {
			t.Errorf("%s: Redis does %.3f of the XADDs that it does in the same time, want %.2f", c.what, share, c.least)
		}
	}
}

// benchmarkDelivered lets producers write, each one message after the other. choose says to which channels a producer writes the
// next one, and with which key. An operation is a message in a channel.
func benchmarkDelivered(b *testing.B, channels, producers int, choose func(p int, producers []string) ([]string, string)) {
	s, err := startServer(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer s.stop()
	o := s.options("bench:")
	writer, reader := open(b, o), open(b, o)
	l := broker.Limits{
		Buffer: 100, InFlight: 100, Hold: 10 * time.Second, TTL: time.Minute, MaxChannels: 1000, MaxMemory: 1 << 30,
	}
	var received atomic.Int64
	var reading sync.WaitGroup
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	var addresses []string
	for range channels {
		a, err := writer.Create(ctx, "agent", l)
		if err != nil {
			b.Fatal(err)
		}
		sub, err := reader.Subscribe(ctx, a.Consumer, broker.SubscribeOptions{Limits: l})
		if err != nil {
			b.Fatal(err)
		}
		addresses = append(addresses, a.Producer)
		reading.Go(func() { readAll(ctx, sub, &received) })
	}
	body := []byte(`"` + strings.Repeat("x", 234) + `"`) // a line of 346 bytes
	earlier := xadd(b, s)
	before := processorTime(b, s)
	trips := writer.RoundTrips() + reader.RoundTrips()
	var written atomic.Int64
	var writing sync.WaitGroup
	b.ResetTimer()
	for p := range producers {
		writing.Go(func() {
			for written.Load() < int64(b.N) {
				to, key := choose(p, addresses)
				m, err := broker.NewMessage("stream", body, key)
				if err != nil {
					b.Error(err)
					return
				}
				for _, outcome := range writer.PublishBatch(ctx, to, []*broker.Message{m}, l) {
					if outcome.Err != nil {
						b.Error(outcome.Err)
						return
					}
				}
				written.Add(int64(len(to)))
			}
		})
	}
	writing.Wait()
	for received.Load() < written.Load() && !b.Failed() {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	used := processorTime(b, s) - before
	n := float64(written.Load())
	b.ReportMetric(float64(used.Microseconds())/n, "redis-µs/op")
	b.ReportMetric(float64(writer.RoundTrips()+reader.RoundTrips()-trips)/n, "trips/op")
	if later := xadd(b, s); later > 0 {
		b.ReportMetric((earlier+later).Seconds()/2/(used.Seconds()/n), "of-XADD")
	}
	stop()
	reading.Wait()
}

// readAll takes all that a reader gets, and counts it.
func readAll(ctx context.Context, sub broker.Subscription, received *atomic.Int64) {
	taken := 0
	for {
		select {
		case <-sub.Ready():
			ms, _ := sub.Take(nil, 1<<20)
			taken += len(ms)
			sub.Received(taken)
			received.Add(int64(len(ms)))
		case <-ctx.Done():
			return
		}
	}
}

// xadd returns the processor time that Redis takes for one XADD, or 0 while package testing only finds out how long to measure.
func xadd(b *testing.B, s *server) time.Duration {
	if os.Getenv("MEGAPHONE_REDIS") != "bench" || b.N < 5000 {
		return 0
	}
	const calls = 300_000
	before := processorTime(b, s)
	out, err := exec.Command("redis-benchmark", "-s", s.socket, "-P", "64", "-n", fmt.Sprint(calls), "-q",
		"xadd", "stream", "maxlen", "~", "1000", "*", "m", rand.Text()+strings.Repeat("x", 320)).CombinedOutput()
	if err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return (processorTime(b, s) - before) / calls
}

// processorTime returns how much processor time the main thread of Redis has used.
func processorTime(b *testing.B, s *server) (sum time.Duration) {
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.socket}, DisableCache: true, ForceSingleClient: true, DialCtxFn: dialUnix})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	text, err := c.Do(b.Context(), c.B().Info().Section("cpu").Build()).ToString()
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && strings.HasSuffix(name, "_main_thread") {
			d, err := time.ParseDuration(value + "s")
			if err != nil {
				b.Fatal(err)
			}
			sum += d
		}
	}
	return sum
}
