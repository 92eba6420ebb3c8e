//go:build unix

package memory

import (
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// TestWhoWakesManyLetsTheNetworkIn, on one core: what a client sends is seen after some readers, not after all.
func TestWhoWakesManyLetsTheNetworkIn(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	l := topicLimits()
	for name, test := range map[string]struct {
		after int // so many readers
		wake  func(*Broker, []string, *broker.Message)
	}{
		"a topic": {walkReaders, func(b *Broker, _ []string, m *broker.Message) {
			if _, err := b.PublishTopic(t.Context(), "news", m, broker.FullMiss, l); err != nil {
				t.Error(err)
			}
		}},
		"a batch": {yieldReaders, func(b *Broker, producers []string, m *broker.Message) {
			b.PublishBatch(t.Context(), producers, []*broker.Message{m}, l)
		}},
		"a stream": {yieldReaders, func(b *Broker, producers []string, m *broker.Message) {
			in := b.Ingest(l)
			for i, producer := range producers {
				if err := in.Write(t.Context(), i, []byte(producer), m); err != nil {
					t.Error(err)
				}
			}
			in.Finish(t.Context())
		}},
		"a drain": {yieldReaders, func(b *Broker, _ []string, _ *broker.Message) { b.Drain(0) }},
	} {
		t.Run(name, func(t *testing.T) {
			const members = 800
			b := New()
			defer b.Close()
			r, w, err := os.Pipe() // the client
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			var mu sync.Mutex
			woken, seen := 0, 0 // readers: so far, and when the client's byte was seen
			var all sync.WaitGroup
			var producers []string
			for range members {
				a, _ := newMember(t, b, l, "news")
				producers = append(producers, a.Producer)
				sub, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: l})
				if err != nil {
					t.Fatal(err)
				}
				all.Go(func() {
					<-sub.Ready()
					mu.Lock()
					defer mu.Unlock()
					if woken++; woken == 1 {
						_, _ = w.Write([]byte{1})
					}
				})
			}
			all.Go(func() {
				_, _ = r.Read(make([]byte, 1))
				mu.Lock()
				defer mu.Unlock()
				seen = woken
			})
			time.Sleep(time.Millisecond) // all of them wait now
			test.wake(b, producers, brokerfixture.Message(t))
			all.Wait()
			if seen > 3*test.after {
				t.Errorf("%d of %d readers were woken before", seen, members)
			}
		})
	}
}
