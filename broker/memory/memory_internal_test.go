package memory

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// mustCreate creates a channel.
func mustCreate(t *testing.T, b *Broker, l broker.Limits) broker.Addresses {
	t.Helper()
	a, err := b.Create(t.Context(), "main", l)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestCloseEndsEveryWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New()
		l := brokerfixture.Limits
		l.Buffer, l.MaxMemory = 1, 1
		full, read := mustCreate(t, b, l), mustCreate(t, b, l)
		sub, err := b.Subscribe(t.Context(), read.Consumer, broker.SubscribeOptions{Limits: l})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Publish(t.Context(), full.Producer, brokerfixture.Message(t), l); err != nil {
			t.Fatal(err)
		}
		l.MaxMemory = 1 << 20
		ended := make(chan error)
		go func() { ended <- b.Publish(t.Context(), full.Producer, brokerfixture.Message(t), l) }()
		go func() {
			l := l
			l.MaxMemory = 1
			ended <- b.Publish(t.Context(), read.Producer, brokerfixture.Message(t), l)
		}()
		go func() {
			in := b.Ingest(l)
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
		b.Close()
		b.Close()
		for range 3 {
			if err := <-ended; !errors.Is(err, broker.ErrClosed) && !errors.Is(err, broker.ErrMemoryLimit) {
				t.Errorf("a wait ended with %v", err)
			}
		}
		<-ended
		if time.Since(start) != 0 {
			t.Errorf("the waits ended after %v", time.Since(start))
		}
		if b.undelivered() != 1 || b.channelCount() != 0 || b.MemoryUsed() != 0 {
			t.Errorf("%d undelivered, %d channels and %d bytes left", b.undelivered(), b.channelCount(), b.MemoryUsed())
		}
		if _, err := b.Create(t.Context(), "main", l); !errors.Is(err, broker.ErrClosed) {
			t.Errorf("create after close: %v", err)
		}
		if _, err := b.Subscribe(t.Context(), read.Consumer, broker.SubscribeOptions{Limits: l}); !errors.Is(err, broker.ErrClosed) {
			t.Errorf("subscribe after close: %v", err)
		}
	})
}

func TestExpiredChannelsAreRemovedWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New()
		defer b.Close()
		const channels = 10_000
		for range channels {
			a, err := b.Create(t.Context(), "main", brokerfixture.Limits)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Publish(t.Context(), a.Producer, brokerfixture.Message(t), brokerfixture.Limits); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(brokerfixture.Limits.TTL - time.Nanosecond)
		if b.channelCount() != channels {
			t.Errorf("%d channels are left before their time", b.channelCount())
		}
		time.Sleep(sweepInterval)
		synctest.Wait()
		if b.channelCount() != 0 || b.undelivered() != channels || b.MemoryUsed() != 0 || b.channels.Size() != 0 {
			t.Errorf("%d channels, %d undelivered, %d bytes, %d addresses after their time",
				b.channelCount(), b.undelivered(), b.MemoryUsed(), b.channels.Size())
		}
	})
}

// TestAcceptedMessagesAreSettledOrUndelivered races producers, readers and deletions, and adds up the messages.
func TestAcceptedMessagesAreSettledOrUndelivered(t *testing.T) {
	b := New()
	l := brokerfixture.Limits
	l.Buffer, l.InFlight, l.Hold, l.MaxMemory = 3, 2, time.Millisecond, 5_000
	var addresses []broker.Addresses
	for range 20 {
		addresses = append(addresses, mustCreate(t, b, l))
	}
	accepted, settled := raceCalls(t, b, addresses, l)
	var pending, inFlight uint64
	for c := range b.list.all() {
		pending += uint64(c.queue.pending())
		inFlight += uint64(c.queue.inFlight)
	}
	totals := b.Stats()
	if totals.Pending != pending || totals.InFlight != inFlight || totals.Readers != 0 || totals.HeldProducers != 0 {
		t.Errorf("%+v, but the channels hold %d pending and %d in flight", totals, pending, inFlight)
	}
	if totals.Accepted != uint64(accepted) || totals.Settled != uint64(settled) || totals.Created != 20 || totals.Deleted[broker.EndDeleted] != 10 {
		t.Errorf("%+v, but %d were accepted and %d settled", totals, accepted, settled)
	}
	b.Close()
	if n := b.Stats(); n.Pending+n.InFlight != 0 || n.Deleted[broker.EndClosed] != 10 {
		t.Errorf("%+v after Close", n)
	}
	if accepted == 0 || settled == 0 || accepted != settled+b.undelivered() {
		t.Errorf("accepted %d, settled %d, undelivered %d", accepted, settled, b.undelivered())
	}
	if b.MemoryUsed() != 0 || b.budget.held.Load() != 0 {
		t.Errorf("%d bytes buffered and %d bytes held are left", b.MemoryUsed(), b.budget.held.Load())
	}
}

// raceCalls publishes to the channels, reads them, deletes the first ten and calls Stats, all at once. It returns how
// many messages were accepted and how many were settled.
func raceCalls(t *testing.T, b *Broker, addresses []broker.Addresses, l broker.Limits) (accepted, settled int) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 2000 {
				if b.Publish(t.Context(), addresses[rand.N(len(addresses))].Producer, brokerfixture.Message(t), l) == nil {
					mu.Lock()
					accepted++
					mu.Unlock()
				}
			}
		})
		all.Go(func() {
			for range 1000 {
				n := readSome(t, b, addresses[rand.N(len(addresses))].Consumer, l)
				mu.Lock()
				settled += n
				mu.Unlock()
			}
		})
	}
	all.Go(func() {
		for _, a := range addresses[:10] {
			if err := b.Delete(t.Context(), a.Producer); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond)
		}
	})
	all.Go(func() {
		for range 1000 {
			if now := b.Stats(); now.Pending > 8000 || now.InFlight > 8000 { // a negative difference would be huge
				t.Errorf("%d pending and %d in flight of %d", now.Pending, now.InFlight, now.Accepted)
				return
			}
		}
	})
	all.Wait()
	return accepted, settled
}

// readSome takes from a channel a few times, and returns how many messages it has settled.
func readSome(t *testing.T, b *Broker, consumer string, l broker.Limits) (settled int) {
	t.Helper()
	sub, err := b.Subscribe(t.Context(), consumer, broker.SubscribeOptions{Limits: l, Acknowledged: true})
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

func TestChannelWithNewReaderDoesNotExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New()
		defer b.Close()
		a, err := b.Create(t.Context(), "main", brokerfixture.Limits)
		if err != nil {
			t.Fatal(err)
		}
		c, err := b.lookup(a.Consumer, consumerKind)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits}); err != nil {
			t.Fatal(err)
		}
		if b.remove(c, broker.EndExpired) || b.channelCount() != 1 {
			t.Error("a channel with a reader has expired")
		}
	})
}

// TestAChannelFitsItsBlock notices a field that makes Go take the next larger block of memory for each channel.
func TestAChannelFitsItsBlock(t *testing.T) {
	t.Parallel()
	if size := reflect.TypeFor[channel]().Size(); size > 256 {
		t.Errorf("a channel has %d bytes; Go takes 288 for more than 256", size)
	}
}
