package memory

import (
	"errors"
	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestCloseEndsEveryWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New()
		l := brokerfixture.Limits
		l.Buffer, l.MaxMemory = 1, 1
		full, err := r.Create(t.Context(), "main", l)
		if err != nil {
			t.Fatal(err)
		}
		read, err := r.Create(t.Context(), "main", l)
		if err != nil {
			t.Fatal(err)
		}
		sub, err := r.Subscribe(t.Context(), read.Consumer, broker.SubscribeOptions{Limits: l})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Publish(t.Context(), full.Producer, brokerfixture.Message(t), l); err != nil {
			t.Fatal(err)
		}
		l.MaxMemory = 1 << 20
		ended := make(chan error)
		go func() { ended <- r.Publish(t.Context(), full.Producer, brokerfixture.Message(t), l) }()
		go func() {
			l := l
			l.MaxMemory = 1
			ended <- r.Publish(t.Context(), read.Producer, brokerfixture.Message(t), l)
		}()
		go func() {
			in := r.Ingest(l)
			if err := in.Write(t.Context(), 0, []byte(full.Producer), brokerfixture.Message(t)); err != nil {
				t.Error(err)
			}
			ended <- in.Finish(t.Context()).Failures[0].Err
		}()
		go func() {
			<-sub.Done()
			ended <- sub.Err()
		}()
		synctest.Wait()
		start := time.Now()
		r.Close()
		r.Close()
		for range 3 {
			if err := <-ended; !errors.Is(err, broker.ErrClosed) && !errors.Is(err, broker.ErrMemoryLimit) {
				t.Errorf("a wait ended with %v", err)
			}
		}
		<-ended
		if time.Since(start) != 0 {
			t.Errorf("the waits ended after %v", time.Since(start))
		}
		if r.Undelivered() != 1 || r.Len() != 0 || r.MemoryUsed() != 0 {
			t.Errorf("%d undelivered, %d channels and %d bytes left", r.Undelivered(), r.Len(), r.MemoryUsed())
		}
		if _, err := r.Create(t.Context(), "main", l); !errors.Is(err, broker.ErrClosed) {
			t.Errorf("create after close: %v", err)
		}
		if _, err := r.Subscribe(t.Context(), read.Consumer, broker.SubscribeOptions{Limits: l}); !errors.Is(err, broker.ErrClosed) {
			t.Errorf("subscribe after close: %v", err)
		}
	})
}

func TestExpiredChannelsAreRemovedWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New()
		defer r.Close()
		const channels = 10_000
		for range channels {
			a, err := r.Create(t.Context(), "main", brokerfixture.Limits)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Publish(t.Context(), a.Producer, brokerfixture.Message(t), brokerfixture.Limits); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(brokerfixture.Limits.TTL - time.Nanosecond)
		if r.Len() != channels {
			t.Errorf("%d channels before their time", r.Len())
		}
		time.Sleep(sweepInterval)
		synctest.Wait()
		if r.Len() != 0 || r.Undelivered() != channels || r.MemoryUsed() != 0 || r.channels.Size() != 0 {
			t.Errorf("%d channels, %d undelivered, %d bytes, %d addresses after it",
				r.Len(), r.Undelivered(), r.MemoryUsed(), r.channels.Size())
		}
	})
}

// TestEverythingAcceptedIsTakenOrCounted lets producers, readers, deletions and expiry race, and adds up.
func TestEverythingAcceptedIsTakenOrCounted(t *testing.T) {
	r := New()
	l := brokerfixture.Limits
	l.Buffer, l.InFlight, l.Hold, l.MaxMemory = 3, 2, time.Millisecond, 5_000
	var (
		addresses []broker.Addresses
		mu        sync.Mutex
		accepted  int
		settled   int
	)
	for range 20 {
		a, err := r.Create(t.Context(), "main", l)
		if err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, a)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 2000 {
				if r.Publish(t.Context(), addresses[rand.N(len(addresses))].Producer, brokerfixture.Message(t), l) == nil {
					mu.Lock()
					accepted++
					mu.Unlock()
				}
			}
		})
		all.Go(func() {
			for range 1000 {
				n := readSome(t, r, addresses[rand.N(len(addresses))].Consumer, l)
				mu.Lock()
				settled += n
				mu.Unlock()
			}
		})
	}
	all.Go(func() {
		for _, a := range addresses[:10] {
			if err := r.Delete(t.Context(), a.Producer); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond)
		}
	})
	counted := make(chan struct{})
	go func() { // while it goes on, no difference is negative
		defer close(counted)
		for range 1000 {
			if now := r.Stats(); now.Pending > 8000 || now.InFlight > 8000 {
				t.Errorf("%d pending and %d in flight of %d", now.Pending, now.InFlight, now.Accepted)
				return
			}
		}
	}()
	all.Wait()
	<-counted
	var pending, inFlight uint64
	for c := range r.list.all() {
		pending += uint64(c.queue.pending())
		inFlight += uint64(c.queue.inFlight)
	}
	totals := r.Stats()
	if totals.Pending != pending || totals.InFlight != inFlight || totals.Readers != 0 || totals.HeldProducers != 0 {
		t.Errorf("%+v, but there are %d pending and %d in flight", totals, pending, inFlight)
	}
	if totals.Accepted != uint64(accepted) || totals.Settled != uint64(settled) || totals.Created != 20 || totals.Deleted[broker.EndDeleted] != 10 {
		t.Errorf("%+v, but accepted were %d and settled %d", totals, accepted, settled)
	}
	r.Close()
	if n := r.Stats(); n.Pending+n.InFlight != 0 || n.Deleted[broker.EndClosed] != 10 {
		t.Errorf("%+v in the end", n)
	}
	if accepted == 0 || settled == 0 || accepted != settled+r.Undelivered() {
		t.Errorf("accepted %d, settled %d, undelivered %d", accepted, settled, r.Undelivered())
	}
	if r.MemoryUsed() != 0 || r.budget.held.Load() != 0 {
		t.Errorf("%d bytes buffered and %d held are left", r.MemoryUsed(), r.budget.held.Load())
	}
}

// readSome reads a channel for a moment and returns how many messages it has settled.
func readSome(t *testing.T, r *Broker, consumer string, l broker.Limits) (settled int) {
	t.Helper()
	sub, err := r.Subscribe(t.Context(), consumer, broker.SubscribeOptions{Limits: l, Acknowledged: true})
	if err != nil {
		return 0
	}
	defer sub.End(broker.EndFault)
	for range 3 {
		ms, _ := sub.Take(nil, 1<<20)
		if len(ms) > 0 && sub.Settle(ms[len(ms)-1].ID()) {
			settled += len(ms)
		}
	}
	return settled
}

func TestAChannelDoesNotExpireUnderAReaderThatHasJustCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New()
		defer r.Close()
		a, err := r.Create(t.Context(), "main", brokerfixture.Limits)
		if err != nil {
			t.Fatal(err)
		}
		c, err := r.lookup(a.Consumer, consumerKind)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits}); err != nil {
			t.Fatal(err)
		}
		if r.remove(c, broker.EndExpired) || r.Len() != 1 {
			t.Error("a channel that is read has expired")
		}
	})
}
