package megaphone

import (
	"bytes"
	"context"
	"encoding/json"
	"runtime"
	"testing"
	"time"
)

var testLimits = Limits{Buffer: 100, InFlight: 100, Hold: 10 * time.Second, TTL: time.Minute, MaxChannels: 2e6, MaxMemory: 1 << 30}

func BenchmarkPublishDeliver(b *testing.B) {
	r := NewRegistry()
	defer r.Close()
	ctx := context.Background()
	a, _ := r.Create(ctx, "main", testLimits)
	s, _ := r.Subscribe(ctx, a.Consumer, SubscribeOptions{Limits: testLimits})
	body := []byte(`"` + string(bytes.Repeat([]byte("x"), 98)) + `"`)
	var ms []*Message
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		m, err := NewMessage("stream", body, "")
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Publish(ctx, a.Producer, m, testLimits); err != nil {
			b.Fatal(err)
		}
		<-s.Ready()
		ms, _ = s.Take(ms[:0], 1<<16)
		n += len(ms)
		s.Received(n)
	}
}

func BenchmarkCreate(b *testing.B) {
	r := NewRegistry()
	defer r.Close()
	l := testLimits
	l.MaxChannels = 1e9
	for b.Loop() {
		r.Create(context.Background(), "main", l)
	}
}

func BenchmarkIdleChannel(b *testing.B) {
	for b.Loop() {
		r := NewRegistry()
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for range 1000000 {
			r.Create(context.Background(), "main", testLimits)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "B/channel")
		start := time.Now()
		for range 10 {
			r.sweep()
		}
		b.ReportMetric(float64(time.Since(start).Milliseconds())/10, "ms/sweep")
		r.Close()
	}
}

func BenchmarkCompact(b *testing.B) {
	src := []byte(`{"user": "ada", "text": "hello, world", "n": [1, 2.5, -3e10], "ok": true, "nested": {"a": null}}`)
	b.Run("own", func(b *testing.B) {
		var dst []byte
		b.SetBytes(int64(len(src)))
		for b.Loop() {
			dst, _ = appendCompact(dst[:0], src)
		}
	})
	b.Run("std", func(b *testing.B) {
		var dst bytes.Buffer
		b.SetBytes(int64(len(src)))
		for b.Loop() {
			dst.Reset()
			json.Compact(&dst, src)
		}
	})
}
