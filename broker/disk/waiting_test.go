package disk

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// TestWaitingAcrossARestart: after a restart, readers have time to come back. Then a channel in which messages wait is reported,
// once, also if it was reported before, and with the time from when they wait. What had reached its reader does not wait.
func TestWaitingAcrossARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const after = 30 * time.Second
		limits := brokerfixture.Limits
		limits.TTL = time.Hour
		var mu sync.Mutex
		reported := map[string][]broker.Waiting{}
		watch := func(b *Broker) {
			b.OnWaiting(func() time.Duration { return after }, func(batch []broker.Waiting) {
				mu.Lock()
				defer mu.Unlock()
				for _, w := range batch {
					reported[w.Consumer()] = append(reported[w.Consumer()], w)
				}
			})
		}
		folder := &testFolder{}
		b := openTest(t, folder, Process)
		watch(b)
		created := func() broker.Addresses {
			a, err := b.Create(t.Context(), "main", limits)
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		publish := func(a broker.Addresses) {
			m, err := broker.NewMessage("s", []byte("1"), "")
			if err == nil {
				err = b.Publish(t.Context(), a.Producer, m, limits)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		subscribe := func(a broker.Addresses) broker.Subscription {
			s, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: limits, Follow: true})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		told, seen, returns := created(), created(), created()
		published := time.Now()
		publish(told)
		publish(seen)
		s := subscribe(seen)
		ms, _ := s.Take(nil, 1<<20)
		s.Received(len(ms))
		s.End(broker.EndFault)
		publish(returns)
		subscribe(returns).Take(nil, 1<<20) // is read when the process is killed
		time.Sleep(2 * after)

		b.Close()
		b = openTest(t, folderOf(folder.content()), Process)
		watch(b)
		defer b.Close()
		time.Sleep(after - time.Second)
		subscribe(returns)
		time.Sleep(3 * after)
		mu.Lock()
		defer mu.Unlock()
		if n := len(reported[told.Consumer]); n != 2 {
			t.Errorf("the channel is reported %d times, want once before the restart and once after it", n)
		}
		for _, w := range reported[told.Consumer] {
			if d := w.Since.Sub(published); w.Messages != 1 || d < -time.Millisecond || d > time.Millisecond {
				t.Errorf("%d messages wait since %v, want 1 since %v", w.Messages, w.Since, published)
			}
		}
		delete(reported, told.Consumer)
		if len(reported) > 0 {
			t.Errorf("others are reported: %v", reported)
		}
	})
}
