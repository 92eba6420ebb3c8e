package redis_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// BenchmarkTopic measures what a message to a topic costs Redis for each of a thousand members. One node publishes, and the readers
// are on another.
func BenchmarkTopic(b *testing.B) {
	if !enabled() {
		b.Skip("needs redis-server: MEGAPHONE_REDIS=1")
	}
	const members = 1000
	for name, how := range map[string]struct {
		merge broker.Merge
		keep  int64
	}{"plain": {}, "kept": {keep: 1 << 20}, "appended": {merge: broker.MergeAppend}} {
		b.Run(name, func(b *testing.B) {
			s, err := startServer(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			defer s.stop()
			o := s.options("bench:")
			writer, reader := open(b, o), open(b, o)
			l := topicLimits
			l.Hold, l.TopicKeep = 10*time.Second, broker.Keep{Bytes: how.keep, TTL: time.Hour}
			ctx, stop := context.WithCancel(b.Context())
			defer stop()
			var received atomic.Int64
			var reading sync.WaitGroup
			for range members {
				a, err := writer.CreateMember(ctx, "agent", []broker.Join{{Topic: "news"}}, l)
				if err != nil {
					b.Fatal(err)
				}
				sub, err := reader.Subscribe(ctx, a.Consumer, broker.SubscribeOptions{Limits: l})
				if err != nil {
					b.Fatal(err)
				}
				reading.Go(func() { readAll(ctx, sub, &received) })
			}
			body := []byte(`"` + strings.Repeat("x", 234) + `"`)
			before := processorTime(b, s)
			b.ResetTimer()
			n := 0
			for ; n < b.N; n += members {
				m, err := broker.NewMessage("stream", body, "")
				if err != nil {
					b.Fatal(err)
				}
				got, err := writer.PublishTopic(ctx, "news", m.WithMerge(how.merge), broker.FullHold, l)
				if err != nil || got.Accepted != members {
					b.Fatalf("%+v, %v", got, err)
				}
			}
			for how.merge == broker.MergeNone && received.Load() < int64(n) {
				time.Sleep(time.Millisecond)
			}
			b.StopTimer()
			b.ReportMetric(float64((processorTime(b, s)-before).Microseconds())/float64(n), "redis-µs/op")
			stop()
			reading.Wait()
		})
	}
}
