package memory

import (
	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestDeletionsAreToldInBatches: one call for each sweep, never an empty one, and none too large.
func TestDeletionsAreToldInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New()
		type call struct {
			at    time.Duration
			count int
		}
		var mu sync.Mutex
		var calls []call
		told := map[string]broker.Deletion{}
		start := time.Now()
		r.OnDeletions(func(ds []broker.Deletion) {
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, call{time.Since(start), len(ds)})
			for _, d := range ds {
				told[d.Consumer()] = d
			}
		})
		create := func(n int) (all []broker.Addresses) {
			for range n {
				a, err := r.Create(t.Context(), "main", brokerfixture.Limits)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, a)
			}
			return all
		}
		wants := func(want ...int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(calls) != len(want) {
				t.Fatalf("calls %v, want %v", calls, want)
			}
			for i, n := range want {
				if calls[i].count != n {
					t.Errorf("calls %v, want %v", calls, want)
				}
			}
			calls = nil
		}

		expiring := create(100)
		time.Sleep(500 * time.Millisecond)
		byHand := create(3)
		for _, a := range byHand {
			if err := r.Publish(t.Context(), a.Producer, brokerfixture.Message(t), brokerfixture.Limits); err != nil {
				t.Fatal(err)
			}
			if err := r.Delete(t.Context(), a.Consumer); err != nil {
				t.Fatal(err)
			}
		}
		wants() // not yet
		time.Sleep(500 * time.Millisecond)
		wants(3)
		time.Sleep(brokerfixture.Limits.TTL - sweepInterval)
		synctest.Wait()
		wants(100)
		time.Sleep(10 * time.Second)
		wants()
		mu.Lock()
		if d := told[byHand[0].Consumer]; d.Reason != broker.EndDeleted || d.Undelivered != 1 {
			t.Errorf("a channel that was deleted by hand is told as %+v", d)
		}
		if d := told[expiring[0].Consumer]; d.Reason != broker.EndExpired || d.Undelivered != 0 {
			t.Errorf("a channel that has expired is told as %+v", d)
		}
		mu.Unlock()

		create(2*maxDeletionBatch + 1)
		time.Sleep(brokerfixture.Limits.TTL + sweepInterval)
		wants(maxDeletionBatch, maxDeletionBatch, 1)

		// The closing tells what was not told yet, and not what it deletes itself.
		create(5)
		if err := r.Delete(t.Context(), create(1)[0].Producer); err != nil {
			t.Fatal(err)
		}
		r.Close()
		wants(1)
	})
}
