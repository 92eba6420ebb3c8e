package megaphone

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
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
	r := NewRegistry()
	a, err := r.Create(tb.Context(), "main", testLimits)
	if err != nil {
		tb.Fatal(err)
	}
	sub, err := r.Subscribe(tb.Context(), a.Consumer, SubscribeOptions{Limits: testLimits})
	if err != nil {
		tb.Fatal(err)
	}
	body := []byte(`"` + string(bytes.Repeat([]byte("x"), 98)) + `"`)
	var ms []*Message
	taken := 0
	return func() {
		m, err := NewMessage("stream", body, "")
		if err != nil {
			tb.Fatal(err)
		}
		if err := r.Publish(tb.Context(), a.Producer, m, testLimits); err != nil {
			tb.Fatal(err)
		}
		<-sub.Ready()
		ms, _ = sub.Take(ms[:0], maxTake)
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

// BenchmarkServeWrite: a write as the handler sees it, without what Caddy and net/http do before and after.
func BenchmarkServeWrite(b *testing.B) {
	b.ReportAllocs()
	serve := writer(b)
	for b.Loop() {
		serve()
	}
}

// writer returns a function that serves one write to a channel, and takes the message.
func writer(tb testing.TB) func() {
	tb.Helper()
	app := &App{MaxMessageSize: 1 << 20, limits: testLimits, shared: newShared()}
	app.broker = app.shared.Registry
	tb.Cleanup(app.shared.Close)
	a, err := app.broker.Create(tb.Context(), "main", testLimits)
	if err != nil {
		tb.Fatal(err)
	}
	sub, err := app.broker.Subscribe(tb.Context(), a.Consumer, SubscribeOptions{Limits: testLimits})
	if err != nil {
		tb.Fatal(err)
	}
	h := &Handler{app: app, logger: zap.NewNop()}
	h.serves[writeEndpoint] = true
	body := bytes.NewReader(nil)
	text := []byte(`"` + strings.Repeat("x", 98) + `"`)
	r := httptest.NewRequest(http.MethodPost, "/write/"+a.Producer+"/stream", body)
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = int64(len(text))
	w := discardResponse{}
	var ms []*Message
	taken := 0
	return func() {
		body.Reset(text)
		if err := h.ServeHTTP(w, r, nil); err != nil {
			tb.Fatal(err)
		}
		<-sub.Ready()
		ms, _ = sub.Take(ms[:0], maxTake)
		taken += len(ms)
		sub.Received(taken)
	}
}

// A discardResponse is where a reply goes that nobody looks at.
type discardResponse http.Header

func (w discardResponse) Header() http.Header       { return http.Header(w) }
func (discardResponse) Write(p []byte) (int, error) { return len(p), nil }
func (discardResponse) WriteHeader(int)             {}

func TestServeWriteAllocatesLittle(t *testing.T) {
	serve := writer(t)
	// The message, its line, and what a garbage collection takes from the pool of buffers.
	if allocations := testing.AllocsPerRun(1000, serve); allocations > 3 {
		t.Errorf("%v allocations for each write", allocations)
	}
}

// BenchmarkCreate. Target: 2 µs.
func BenchmarkCreate(b *testing.B) {
	r := NewRegistry()
	defer r.Close()
	for b.Loop() {
		if _, err := r.Create(b.Context(), "main", testLimits); err != nil {
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
		a, err := r.Create(b.Context(), "main", testLimits)
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

// BenchmarkParseSecret: what every request begins with, and the same by encoding/base64.
func BenchmarkParseSecret(b *testing.B) {
	want, _ := newSecrets()
	text := secretText.EncodeToString(want[:])
	b.Run("megaphone", func(b *testing.B) {
		for b.Loop() {
			_, _ = parseSecret(text)
		}
	})
	b.Run("base64", func(b *testing.B) {
		var s secret
		var spelled [22]byte
		for b.Loop() {
			copy(spelled[:], text)
			_, _ = secretText.Decode(s[:], spelled[:])
		}
	})
}

// million makes a registry with a million channels, and reports the heap that each takes.
func million(tb testing.TB, channels int) (r *Registry, bytesPerChannel float64) {
	tb.Helper()
	r = NewRegistry()
	before := heap()
	for range channels {
		if _, err := r.Create(tb.Context(), "main", testLimits); err != nil {
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

// BenchmarkCompact compares with the standard library.
func BenchmarkCompact(b *testing.B) {
	src := []byte(`{"user": "ada", "text": "hello, world", "n": [1, 2.5, -3e10], "ok": true, "nested": {"a": null}}`)
	b.Run("appendCompact", func(b *testing.B) {
		b.SetBytes(int64(len(src)))
		var dst []byte
		for b.Loop() {
			dst, _ = appendCompact(dst[:0], src, 0)
		}
	})
	b.Run("json.Compact", func(b *testing.B) {
		b.SetBytes(int64(len(src)))
		var dst bytes.Buffer
		for b.Loop() {
			dst.Reset()
			_ = json.Compact(&dst, src)
		}
	})
}

// BenchmarkEnvelope compares with the standard library.
func BenchmarkEnvelope(b *testing.B) {
	line := []byte(`{"channel":"main.AAAAAAAAAAAAAAAAAAAAAA","streamId":"stream","body":{"user":"ada","text":"hello, world"}}`)
	b.Run("parseEnvelope", func(b *testing.B) {
		b.SetBytes(int64(len(line)))
		for b.Loop() {
			if _, err := parseEnvelope(line); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("json.Unmarshal", func(b *testing.B) {
		b.SetBytes(int64(len(line)))
		for b.Loop() {
			var e struct {
				Channel  string          `json:"channel"`
				StreamID string          `json:"streamId"`
				Body     json.RawMessage `json:"body"`
			}
			if err := json.Unmarshal(line, &e); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkScrape: all metrics, with a million channels. Target: 100 ms.
func BenchmarkScrape(b *testing.B) {
	r, _ := million(b, 1_000_000)
	defer r.Close()
	registry := prometheus.NewPedanticRegistry()
	if err := newMetrics(r).register(registry, testLimits, nil); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := registry.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAMillionChannelsHoldUpNobody: with a million channels, a scrape and a sweep take 100 ms at most, and those
// who publish meanwhile do not wait for them.
func TestAMillionChannelsHoldUpNobody(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	r, _ := million(t, 1_000_000)
	defer r.Close()
	registry := prometheus.NewPedanticRegistry()
	if err := newMetrics(r).register(registry, testLimits, nil); err != nil {
		t.Fatal(err)
	}
	a, err := r.Create(t.Context(), "main", testLimits)
	if err != nil {
		t.Fatal(err)
	}
	// The fastest of several runs, since other things run on this machine.
	fastest := func(f func()) time.Duration {
		best := time.Hour
		for range 10 {
			start := time.Now()
			f()
			best = min(best, time.Since(start))
		}
		return best
	}
	if took := fastest(func() {
		if _, err := registry.Gather(); err != nil {
			t.Error(err)
		}
	}); took > 100*time.Millisecond {
		t.Errorf("a scrape takes %v", took)
	}
	if took := fastest(r.sweep); took > 100*time.Millisecond {
		t.Errorf("a sweep takes %v", took)
	}

	// A call during a sweep takes no longer than a part of it, whatever the lock that it needs.
	sweeping := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		defer close(sweeping)
		for range 3 {
			r.sweep()
			if _, err := registry.Gather(); err != nil {
				t.Error(err)
			}
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
		if _, err := r.Create(t.Context(), "main", testLimits); err != nil {
			t.Fatal(err)
		}
		_ = r.Publish(t.Context(), a.Producer, newMessage(t), Limits{Buffer: 1 << 30, MaxMemory: 1 << 40})
		took = append(took, time.Since(start))
	}
	all.Wait()
	slices.Sort(took)
	if median, high := took[len(took)/2], took[len(took)*99/100]; high > 20*time.Millisecond {
		t.Errorf("of %d calls during sweeps, half took %v and one in a hundred more than %v", len(took), median, high)
	}
}
