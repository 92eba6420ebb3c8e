package memory

import (
	"errors"
	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// drained runs a test with a registry, in a synctest bubble.
func drained(t *testing.T, test func(t *testing.T, r *Broker, create func() broker.Addresses)) {
	synctest.Test(t, func(t *testing.T) {
		r := New()
		defer r.Close()
		test(t, r, func() broker.Addresses {
			a, err := r.Create(t.Context(), "main", brokerfixture.Limits)
			if err != nil {
				t.Fatal(err)
			}
			return a
		})
	})
}

func (r *Broker) exists(t *testing.T, a broker.Addresses) bool {
	t.Helper()
	_, err := r.State(t.Context(), a.Consumer)
	if err != nil && !errors.Is(err, broker.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func TestDrainEndsChannelsThatHoldNothingOverTheGivenTime(t *testing.T) {
	drained(t, func(t *testing.T, r *Broker, create func() broker.Addresses) {
		const channels = 1000
		for range channels {
			create()
		}
		if s := r.Drain(10 * time.Second); !s.Active || s.Done || s.Channels != channels || s.Over != 10*time.Second {
			t.Errorf("state %+v", s)
		}
		if _, err := r.Create(t.Context(), "main", brokerfixture.Limits); !errors.Is(err, broker.ErrDraining) {
			t.Errorf("create: %v", err)
		}
		for passed := time.Second; passed < 10*time.Second; passed += time.Second {
			time.Sleep(time.Second)
			synctest.Wait()
			want := channels - int(passed*channels/(10*time.Second))
			if s := r.DrainState(); s.Remaining < want || s.Remaining > want+channels/100 || s.Remaining != r.Len() {
				t.Errorf("after %v: %+v and %d channels", passed, s, r.Len())
			}
		}
		time.Sleep(time.Second + 2*drainPause)
		if s := r.DrainState(); !s.Done || s.Remaining != 0 || s.Undelivered != 0 {
			t.Errorf("state %+v", s)
		}
		r.Undrain()
		if s := r.DrainState(); s != (broker.DrainState{}) {
			t.Errorf("state %+v", s)
		}
		create()
	})
}

func TestDrainKeepsAChannelUntilItsMessagesAreSettled(t *testing.T) {
	drained(t, func(t *testing.T, r *Broker, create func() broker.Addresses) {
		a := create()
		if err := r.Publish(t.Context(), a.Producer, brokerfixture.Message(t), brokerfixture.Limits); err != nil {
			t.Fatal(err)
		}
		sub, err := r.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits})
		if err != nil {
			t.Fatal(err)
		}
		<-sub.Ready()
		r.Drain(0)
		synctest.Wait()
		if err := r.Publish(t.Context(), a.Producer, brokerfixture.Message(t), brokerfixture.Limits); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("a write to a sealed channel: %v", err)
		}
		if sub.Drained() {
			t.Error("drained before the message is taken")
		}
		<-sub.Ready()
		ms, _ := sub.Take(nil, 1<<20)
		if len(ms) != 1 || !sub.Drained() {
			t.Errorf("took %d messages, drained %v", len(ms), sub.Drained())
		}
		sub.End(broker.EndFault)
		time.Sleep(time.Second)
		if !r.exists(t, a) || r.DrainState().Done {
			t.Error("the channel is gone, and its message is not settled")
		}
		again, err := r.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits, Acknowledged: true})
		if err != nil {
			t.Fatal(err)
		}
		ms, _ = again.Take(nil, 1<<20)
		again.Settle(ms[0].ID())
		time.Sleep(2 * drainPause)
		<-again.Done()
		if s := r.DrainState(); !s.Done || s.Undelivered != 0 || r.exists(t, a) {
			t.Errorf("state %+v", s)
		}
	})
}

func TestDrainWaitsForExpiryAndCountsWhatIsLost(t *testing.T) {
	drained(t, func(t *testing.T, r *Broker, create func() broker.Addresses) {
		a := create()
		if err := r.Publish(t.Context(), a.Producer, brokerfixture.Message(t), brokerfixture.Limits); err != nil {
			t.Fatal(err)
		}
		r.Drain(0)
		time.Sleep(brokerfixture.Limits.TTL - time.Second)
		if s := r.DrainState(); s.Done {
			t.Errorf("state %+v", s)
		}
		time.Sleep(3 * time.Second)
		if s := r.DrainState(); !s.Done || s.Undelivered != 1 {
			t.Errorf("state %+v", s)
		}
	})
}

func TestDrainTellsWaitingProducersThatTheChannelIsGone(t *testing.T) {
	drained(t, func(t *testing.T, r *Broker, create func() broker.Addresses) {
		a, l := create(), brokerfixture.Limits
		l.Buffer = 1
		if err := r.Publish(t.Context(), a.Producer, brokerfixture.Message(t), l); err != nil {
			t.Fatal(err)
		}
		held := make(chan error)
		go func() { held <- r.Publish(t.Context(), a.Producer, brokerfixture.Message(t), l) }()
		synctest.Wait()
		start := time.Now()
		r.Drain(0)
		if err := <-held; !errors.Is(err, broker.ErrNotFound) || time.Since(start) > 0 {
			t.Errorf("the held write ended with %v after %v", err, time.Since(start))
		}
	})
}

func TestUndrainOpensChannelsAgain(t *testing.T) {
	drained(t, func(t *testing.T, r *Broker, create func() broker.Addresses) {
		a := create()
		if err := r.Publish(t.Context(), a.Producer, brokerfixture.Message(t), brokerfixture.Limits); err != nil {
			t.Fatal(err)
		}
		r.Drain(0)
		r.Drain(time.Hour) // anew, while one is under way
		time.Sleep(time.Second)
		r.Undrain()
		r.Undrain()
		if err := r.Publish(t.Context(), a.Producer, brokerfixture.Message(t), brokerfixture.Limits); err != nil {
			t.Errorf("a write after the end of the drain: %v", err)
		}
		time.Sleep(time.Second)
		if state, err := r.State(t.Context(), a.Producer); err != nil || state.Pending != 2 {
			t.Errorf("state %+v, %v", state, err)
		}
	})
}

func TestCloseEndsADrain(t *testing.T) {
	drained(t, func(t *testing.T, r *Broker, create func() broker.Addresses) {
		create()
		r.Drain(time.Hour)
		r.Close() // and the bubble notices a goroutine that is left
		if s := r.Drain(0); s.Done {
			t.Errorf("state %+v", s)
		}
	})
}

// TestWalksMayDeleteWhatIsJustCreated races Create with what walks over all channels: a drain, or the reaper.
func TestWalksMayDeleteWhatIsJustCreated(t *testing.T) {
	r := New()
	defer r.Close()
	var creators sync.WaitGroup
	var creating atomic.Int32
	creating.Store(2)
	for range 2 {
		creators.Go(func() {
			defer creating.Add(-1)
			for range 10_000 {
				if _, err := r.Create(t.Context(), "main", brokerfixture.Limits); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for creating.Load() > 0 {
		for c := range r.list.all() {
			r.remove(c, broker.EndDeleted)
		}
	}
	creators.Wait()
	listed := 0
	for range r.list.all() {
		listed++
	}
	if r.Len() != listed || r.channels.Size() != 2*listed {
		t.Errorf("%d channels, %d in the list, %d addresses", r.Len(), listed, r.channels.Size())
	}
}
