package memory

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// testDrain runs a test with a Broker in a synctest bubble. The function create makes a channel.
func testDrain(t *testing.T, test func(t *testing.T, b *Broker, create func() broker.Addresses)) {
	synctest.Test(t, func(t *testing.T) {
		b := New()
		defer b.Close()
		test(t, b, func() broker.Addresses {
			a, err := b.Create(t.Context(), "main", brokerfixture.Limits)
			if err != nil {
				t.Fatal(err)
			}
			return a
		})
	})
}

func (b *Broker) exists(t *testing.T, a broker.Addresses) bool {
	t.Helper()
	_, err := b.State(t.Context(), a.Consumer)
	if err != nil && !errors.Is(err, broker.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func TestDrainDeletesEmptyChannelsOverTheGivenTime(t *testing.T) {
	testDrain(t, func(t *testing.T, b *Broker, create func() broker.Addresses) {
		const channels = 1000
		for range channels {
			create()
		}
		if s := b.Drain(10 * time.Second); !s.Active || s.Done || s.Channels != channels || s.Over != 10*time.Second {
			t.Errorf("state %+v", s)
		}
		if _, err := b.Create(t.Context(), "main", brokerfixture.Limits); !errors.Is(err, broker.ErrDraining) {
			t.Errorf("create: %v", err)
		}
		for passed := time.Second; passed < 10*time.Second; passed += time.Second {
			time.Sleep(time.Second)
			synctest.Wait()
			want := channels - int(passed*channels/(10*time.Second))
			if s := b.DrainState(); s.Remaining < want || s.Remaining > want+channels/100 || s.Remaining != b.channelCount() {
				t.Errorf("after %v: %+v and %d channels", passed, s, b.channelCount())
			}
		}
		time.Sleep(time.Second + 2*drainPause)
		if s := b.DrainState(); !s.Done || s.Remaining != 0 || s.Undelivered != 0 {
			t.Errorf("state %+v", s)
		}
		b.Undrain()
		if s := b.DrainState(); s != (broker.DrainState{}) {
			t.Errorf("state %+v", s)
		}
		create()
	})
}

func TestDrainKeepsAChannelUntilItsMessagesAreSettled(t *testing.T) {
	testDrain(t, func(t *testing.T, b *Broker, create func() broker.Addresses) {
		a := create()
		if err := b.Publish(t.Context(), a.Producer, brokerfixture.Message(t), brokerfixture.Limits); err != nil {
			t.Fatal(err)
		}
		sub, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits})
		if err != nil {
			t.Fatal(err)
		}
		<-sub.Ready()
		b.Drain(0)
		synctest.Wait()
		if err := b.Publish(t.Context(), a.Producer, brokerfixture.Message(t), brokerfixture.Limits); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("a write to a sealed channel: %v", err)
		}
		if sub.Drained() {
			t.Error("drained before the message was taken")
		}
		<-sub.Ready()
		ms, _ := sub.Take(nil, 1<<20)
		if len(ms) != 1 || !sub.Drained() {
			t.Errorf("took %d messages, drained %v", len(ms), sub.Drained())
		}
		sub.End(broker.EndFault)
		time.Sleep(time.Second)
		if !b.exists(t, a) || b.DrainState().Done {
			t.Error("the channel is gone before its message is settled")
		}
		again, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits, Acknowledged: true})
		if err != nil {
			t.Fatal(err)
		}
		ms, _ = again.Take(nil, 1<<20)
		again.Settle(ms[0].ID())
		time.Sleep(2 * drainPause)
		<-again.Done()
		if s := b.DrainState(); !s.Done || s.Undelivered != 0 || b.exists(t, a) {
			t.Errorf("state %+v", s)
		}
	})
}

// TestADrainRemovesNoChannelThatHoldsSomething: the end of a topic may come when the drain has just found the channel empty.
func TestADrainRemovesNoChannelThatHoldsSomething(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New()
		defer b.Close()
		a, c := newMember(t, b, topicLimits(), "news")
		c.seal()
		end, err := broker.NewEnd("news", broker.EndDone)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.CloseTopic(t.Context(), "news", end, topicLimits()); err != nil {
			t.Fatal(err)
		}
		if b.removeIfEmpty(c) || !b.exists(t, a) {
			t.Error("the channel is gone with the end")
		}
	})
}

func TestDrainWaitsForExpiryAndCountsUndelivered(t *testing.T) {
	testDrain(t, func(t *testing.T, b *Broker, create func() broker.Addresses) {
		a := create()
		if err := b.Publish(t.Context(), a.Producer, brokerfixture.Message(t), brokerfixture.Limits); err != nil {
			t.Fatal(err)
		}
		b.Drain(0)
		time.Sleep(brokerfixture.Limits.TTL - time.Second)
		if s := b.DrainState(); s.Done {
			t.Errorf("state %+v", s)
		}
		time.Sleep(3 * time.Second)
		if s := b.DrainState(); !s.Done || s.Undelivered != 1 {
			t.Errorf("state %+v", s)
		}
	})
}

func TestDrainRefusesHeldProducers(t *testing.T) {
	testDrain(t, func(t *testing.T, b *Broker, create func() broker.Addresses) {
		a, l := create(), brokerfixture.Limits
		l.Buffer = 1
		if err := b.Publish(t.Context(), a.Producer, brokerfixture.Message(t), l); err != nil {
			t.Fatal(err)
		}
		held := make(chan error)
		go func() { held <- b.Publish(t.Context(), a.Producer, brokerfixture.Message(t), l) }()
		synctest.Wait()
		start := time.Now()
		b.Drain(0)
		if err := <-held; !errors.Is(err, broker.ErrNotFound) || time.Since(start) > 0 {
			t.Errorf("the held write ended with %v after %v", err, time.Since(start))
		}
	})
}

func TestUndrainLetsChannelsTakeMessages(t *testing.T) {
	testDrain(t, func(t *testing.T, b *Broker, create func() broker.Addresses) {
		a := create()
		if err := b.Publish(t.Context(), a.Producer, brokerfixture.Message(t), brokerfixture.Limits); err != nil {
			t.Fatal(err)
		}
		b.Drain(0)
		b.Drain(time.Hour) // again, while the first is under way
		time.Sleep(time.Second)
		b.Undrain()
		b.Undrain()
		if err := b.Publish(t.Context(), a.Producer, brokerfixture.Message(t), brokerfixture.Limits); err != nil {
			t.Errorf("a write after the end of the drain: %v", err)
		}
		time.Sleep(time.Second)
		if state, err := b.State(t.Context(), a.Producer); err != nil || state.Pending != 2 {
			t.Errorf("state %+v, %v", state, err)
		}
	})
}

func TestCloseEndsADrain(t *testing.T) {
	testDrain(t, func(t *testing.T, b *Broker, create func() broker.Addresses) {
		create()
		b.Drain(time.Hour)
		b.Close() // the bubble reports a goroutine that is left
		if s := b.Drain(0); s.Done {
			t.Errorf("state %+v", s)
		}
	})
}

// TestIterationMayDeleteNewChannels races Create with code that iterates over all channels, such as a drain or a sweep.
func TestIterationMayDeleteNewChannels(t *testing.T) {
	b := New()
	defer b.Close()
	var creators sync.WaitGroup
	var creating atomic.Int32
	creating.Store(2)
	for range 2 {
		creators.Go(func() {
			defer creating.Add(-1)
			for range 10_000 {
				if _, err := b.Create(t.Context(), "main", brokerfixture.Limits); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for creating.Load() > 0 {
		for c := range b.list.all() {
			b.remove(c, broker.EndDeleted)
		}
	}
	creators.Wait()
	listed := 0
	for range b.list.all() {
		listed++
	}
	if b.channelCount() != listed || b.channels.Size() != 2*listed {
		t.Errorf("%d channels, %d in the list, %d addresses", b.channelCount(), listed, b.channels.Size())
	}
}
