package memory

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// A crowd is a Broker whose memory is used up, with producers of many channels that wait for some. Once the message of one
// more channel is gone, there is room for one.
type crowd struct {
	*Broker

	limits   broker.Limits
	full     broker.Addresses // of the channel with the one message
	waiting  []*channel       // in the order in which they began to wait
	admitted chan int         // the index in waiting of each channel that has got its message
}

// newCrowd makes a crowd with n waiting channels.
func newCrowd(tb testing.TB, n int) *crowd {
	tb.Helper()
	c := &crowd{Broker: New(), limits: brokerfixture.Limits, admitted: make(chan int, n+1)}
	tb.Cleanup(c.Close)
	c.limits.Buffer, c.limits.Hold = 1<<30, time.Hour
	// Waiting messages may take a sixteenth of the limit.
	base := c.publishBig(tb, 32*(n+1)*int(brokerfixture.Message(tb).Size()))
	c.full = c.publishBig(tb, 1).addresses()
	c.limits.MaxMemory = base.queue.at(0).Size() + 1
	for i := range n {
		c.waiting = append(c.waiting, c.create(tb))
		wait(tb, c.waiting[i], c.limits, func() { c.admitted <- i })
	}
	return c
}

func (c *crowd) create(tb testing.TB) *channel {
	tb.Helper()
	a, err := c.Create(tb.Context(), "main", c.limits)
	if err != nil {
		tb.Fatal(err)
	}
	created, err := c.lookup(a.Producer, producerKind)
	if err != nil {
		tb.Fatal(err)
	}
	return created
}

// publishBig returns a channel with a message that has so many bytes, at least.
func (c *crowd) publishBig(tb testing.TB, size int) *channel {
	tb.Helper()
	m, err := broker.NewMessage("stream", []byte(`"`+strings.Repeat("x", size)+`"`), "")
	if err != nil {
		tb.Fatal(err)
	}
	created := c.create(tb)
	if ok, _, _ := created.publishNow(m, &c.limits); !ok {
		tb.Fatal("there is no room")
	}
	return created
}

// wait makes a message wait in a channel. admitted is called when the channel takes it.
func wait(tb testing.TB, c *channel, l broker.Limits, admitted func()) {
	tb.Helper()
	w := &waiter{channel: c, ms: []*broker.Message{brokerfixture.Message(tb)}, limits: l}
	w.owner = ownerFunc(func() {
		if w.err == nil {
			admitted()
		}
	})
	if c.publish(w) {
		tb.Fatalf("the message does not wait: %v", w.err)
	}
}

type ownerFunc func()

func (f ownerFunc) finished() { f() }

// free frees memory for one message.
func (c *crowd) free(tb testing.TB) {
	tb.Helper()
	if err := c.Delete(tb.Context(), c.full.Producer); err != nil {
		tb.Fatal(err)
	}
}

// TestFreedMemoryConcernsOneChannel: 10,000 channels wait, and memory for one message is freed. The test holds the locks of
// all channels but the first, so whoever looked at a second one would hang.
func TestFreedMemoryConcernsOneChannel(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, 10_000)
	for _, other := range c.waiting[1:] {
		other.mu.Lock()
	}
	c.free(t)
	flushed := make(chan struct{})
	go func() {
		if first := <-c.admitted; first != 0 {
			t.Errorf("channel %d got the memory, want the first", first)
		}
		c.FlushDeletions() // the Broker's goroutine does it once it has done with the memory
		close(flushed)
	}()
	select {
	case <-flushed:
	case <-time.After(10 * time.Second):
		t.Error("the Broker has looked at a channel for which there is no memory")
	}
	for _, other := range c.waiting[1:] {
		other.mu.Unlock()
	}
	<-flushed
}

// TestFreedMemoryGoesToThoseWhoWaitLongest: channels get freed memory in the order in which they began to wait. A channel
// that wants more waits behind the others.
func TestFreedMemoryGoesToThoseWhoWaitLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 3)
		wait(t, c.waiting[0], c.limits, func() { c.admitted <- 10 })
		c.free(t)
		var order []int
		for range 4 {
			synctest.Wait()
			if len(c.admitted) != 1 {
				t.Fatalf("%d messages were admitted, want 1", len(c.admitted))
			}
			i := <-c.admitted
			order = append(order, i)
			takeAll(t, c.waiting[i%10])
		}
		if want := []int{0, 1, 2, 10}; !slices.Equal(order, want) {
			t.Errorf("the order is %v, want %v", order, want)
		}
		if c.budget.waiting.Load() != 0 {
			t.Errorf("%d channels still wait", c.budget.waiting.Load())
		}
	})
}

// takeAll takes and settles what a channel holds.
func takeAll(tb testing.TB, c *channel) {
	tb.Helper()
	sub, err := c.subscribe(broker.SubscribeOptions{Limits: brokerfixture.Limits, Acknowledged: true})
	if err != nil {
		tb.Fatal(err)
	}
	ms, _ := sub.Take(nil, 1<<20)
	sub.Settle(ms[len(ms)-1].ID())
	sub.End(broker.EndFault)
}

// TestALowLimitDoesNotHoldUpAHigherOne: during a reload that raises max_memory, producers of both configurations wait.
func TestALowLimitDoesNotHoldUpAHigherOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1) // with the lower limit
		c.limits.MaxMemory += 100 << 10
		more := c.publishBig(t, 100<<10)
		wait(t, c.create(t), c.limits, func() { c.admitted <- 1 })
		c.remove(more, broker.EndDeleted)
		synctest.Wait()
		if len(c.admitted) != 1 || <-c.admitted != 1 {
			t.Error("the producer with the higher limit still waits")
		}
	})
}

// TestWhoWaitsNoMoreLeavesTheQueue: channels that are deleted, or whose producers give up, are not kept until memory is freed.
func TestWhoWaitsNoMoreLeavesTheQueue(t *testing.T) {
	t.Parallel()
	c := newCrowd(t, 3)
	c.remove(c.waiting[1], broker.EndDeleted)
	w := c.waiting[2].held.first
	c.waiting[2].withdraw(w, broker.ErrTimeout)
	if n := c.budget.waiting.Load(); n != 1 {
		t.Errorf("%d channels wait for memory, want 1", n)
	}
	c.free(t)
	if i := <-c.admitted; i != 0 {
		t.Errorf("channel %d got the memory", i)
	}
}

// BenchmarkFreeAmongMany frees memory for one message while 10,000 channels wait for it, until one of them has it.
func BenchmarkFreeAmongMany(b *testing.B) {
	c := newCrowd(b, 10_000)
	c.free(b)
	for b.Loop() {
		i := <-c.admitted
		wait(b, c.waiting[i], c.limits, func() { c.admitted <- i }) // behind the others
		takeAll(b, c.waiting[i])
	}
}
