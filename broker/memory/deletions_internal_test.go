package memory

import (
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// A reportedBatch is one call of the function that OnDeletions was given.
type reportedBatch struct {
	at    time.Duration // since the recorder's start
	count int
}

// A deletionRecorder records reported deletions.
type deletionRecorder struct {
	start time.Time

	mu       sync.Mutex
	batches  []reportedBatch
	reported map[string]broker.Deletion // by consumer address
}

func (r *deletionRecorder) report(ds []broker.Deletion) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches = append(r.batches, reportedBatch{time.Since(r.start), len(ds)})
	for _, d := range ds {
		r.reported[d.Consumer()] = d
	}
}

// expectBatches checks the sizes of the batches that were reported since it was called last.
func (r *deletionRecorder) expectBatches(t *testing.T, want ...int) {
	t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.batches) != len(want) {
		t.Fatalf("batches %v, want %v", r.batches, want)
	}
	for i, n := range want {
		if r.batches[i].count != n {
			t.Errorf("batches %v, want %v", r.batches, want)
		}
	}
	r.batches = nil
}

// expectDeletion checks how the deletion of a channel was reported.
func (r *deletionRecorder) expectDeletion(t *testing.T, a broker.Addresses, reason broker.EndReason, undelivered int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.reported[a.Consumer]; d.Reason != reason || d.Undelivered != undelivered {
		t.Errorf("reported is %+v, want reason %v and %d undelivered", d, reason, undelivered)
	}
}

// TestEventsOfTopicsAreReportedInBatches checks that no report of topics is too large.
func TestEventsOfTopicsAreReportedInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New()
		defer b.Close()
		var batches []int
		b.OnTopics(func(events []broker.TopicEvent) { batches = append(batches, len(events)) })
		l := topicLimits()
		l.MaxTopics = 2*maxDeletionBatch + 1
		a, _ := newMember(t, b, l)
		for i := range l.MaxTopics {
			if err := b.Join(t.Context(), a.Producer, broker.Join{Topic: strconv.Itoa(i)}, l); err != nil {
				t.Fatal(err)
			}
		}
		b.FlushDeletions()
		if want := []int{maxDeletionBatch, maxDeletionBatch, 1}; !slices.Equal(batches, want) {
			t.Errorf("batches of %v are reported, want %v", batches, want)
		}
	})
}

// createMany creates n channels.
func createMany(t *testing.T, b *Broker, n int) (all []broker.Addresses) {
	t.Helper()
	for range n {
		all = append(all, mustCreate(t, b, brokerfixture.Limits))
	}
	return all
}

// TestDeletionsAreReportedInBatches checks that each sweep reports its deletions in one call, that no report is empty,
// and that none is too large.
func TestDeletionsAreReportedInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New()
		r := &deletionRecorder{start: time.Now(), reported: map[string]broker.Deletion{}}
		b.OnDeletions(r.report)

		expiring := createMany(t, b, 100)
		time.Sleep(500 * time.Millisecond)
		deleted := createMany(t, b, 3)
		for _, a := range deleted {
			if err := b.Publish(t.Context(), a.Producer, brokerfixture.Message(t), brokerfixture.Limits); err != nil {
				t.Fatal(err)
			}
			if err := b.Delete(t.Context(), a.Consumer); err != nil {
				t.Fatal(err)
			}
		}
		r.expectBatches(t) // not yet
		time.Sleep(500 * time.Millisecond)
		r.expectBatches(t, 3)
		time.Sleep(brokerfixture.Limits.TTL - sweepInterval)
		synctest.Wait()
		r.expectBatches(t, 100)
		time.Sleep(10 * time.Second)
		r.expectBatches(t)
		r.expectDeletion(t, deleted[0], broker.EndDeleted, 1)
		r.expectDeletion(t, expiring[0], broker.EndExpired, 0)

		createMany(t, b, 2*maxDeletionBatch+1)
		time.Sleep(brokerfixture.Limits.TTL + sweepInterval)
		r.expectBatches(t, maxDeletionBatch, maxDeletionBatch, 1)

		// Close reports the deletions before it, and none of its own.
		createMany(t, b, 5)
		if err := b.Delete(t.Context(), createMany(t, b, 1)[0].Producer); err != nil {
			t.Fatal(err)
		}
		b.Close()
		r.expectBatches(t, 1)
	})
}
