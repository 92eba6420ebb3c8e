package delivery

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// A fakeClient is the far side of a feed: a transport, and the connection below it that can be asked.
type fakeClient struct {
	appended, sent int
	heartbeats     atomic.Int32
	gone           chan struct{}
	fail           error // of a Flush

	mu             sync.Mutex
	written, acked uint64 // bytes, a hundred for each message; guarded by mu
	acksAtOnce     bool
	looks          int
}

func newFakeClient() *fakeClient { return &fakeClient{gone: make(chan struct{})} }

func (c *fakeClient) Start() error             { return nil }
func (c *fakeClient) Append(uuid.UUID, []byte) { c.appended++ }
func (c *fakeClient) Heartbeat() error         { c.heartbeats.Add(1); return nil }
func (c *fakeClient) Gone() <-chan struct{}    { return c.gone }
func (c *fakeClient) End(transport.Reason)     {}

func (c *fakeClient) Flush() error {
	if c.fail != nil {
		return c.fail
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent += c.appended
	c.written += uint64(c.appended) * 100
	c.appended = 0
	if c.acksAtOnce {
		c.acked = c.written
	}
	return nil
}

// messages returns how many messages were sent.
func (c *fakeClient) messages() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

// acknowledge lets some bytes more arrive.
func (c *fakeClient) acknowledge(bytes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked = min(c.written, c.acked+bytes)
}

func (c *fakeClient) State() (acked uint64, queued int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looks++
	return c.acked, int(c.written - c.acked), nil
}

// A deliveryTest is a channel with a feed to a fake client.
type deliveryTest struct {
	*testing.T

	registry  *memory.Broker
	limits    broker.Limits
	addresses broker.Addresses
	client    *fakeClient
	delivery  Delivery
	unloaded  chan struct{}
	streams   DetachedStreams
}

// testDelivery runs a test in a bubble. The channel's buffer has room for 4 messages, and its window for 3.
func testDelivery(t *testing.T, test func(*deliveryTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &deliveryTest{T: t, registry: memory.New(), limits: brokerfixture.Limits, client: newFakeClient(), unloaded: make(chan struct{})}
		defer f.registry.Close()
		f.limits.Buffer, f.limits.InFlight, f.limits.Hold = 4, 3, 0
		var err error
		if f.addresses, err = f.registry.Create(t.Context(), "main", f.limits); err != nil {
			t.Fatal(err)
		}
		f.delivery = Delivery{
			sub: f.subscribe(), transport: f.client, receipts: receipts{conn: f.client, patience: 1},
			duration: time.Hour, writeTimeout: 10 * time.Second, unloaded: f.unloaded,
		}
		test(f)
	})
}

func (f *deliveryTest) subscribe() broker.Subscription {
	f.Helper()
	sub, err := f.registry.Subscribe(f.Context(), f.addresses.Consumer, broker.SubscribeOptions{Limits: f.limits})
	if err != nil {
		f.Fatal(err)
	}
	return sub
}

// publish publishes until the channel takes no more, and at most n messages. It returns how many.
func (f *deliveryTest) publish(n int) int {
	f.Helper()
	for i := range n {
		err := f.registry.Publish(f.Context(), f.addresses.Producer, brokerfixture.Message(f), f.limits)
		if errors.Is(err, broker.ErrTimeout) {
			return i
		}
		if err != nil {
			f.Fatal(err)
		}
		synctest.Wait()
	}
	return n
}

// run starts the feed and returns where its end is told.
func (f *deliveryTest) run() <-chan transport.Reason {
	ended := make(chan transport.Reason, 1)
	go func() {
		why, _ := f.delivery.run()
		ended <- why
	}()
	synctest.Wait()
	return ended
}

func (f *deliveryTest) ends(ended <-chan transport.Reason, want transport.Reason) {
	f.Helper()
	if why := <-ended; why != want {
		f.Errorf("the read ends as %v, want %v", why, want)
	}
}

// holds checks how many messages the channel has, pending and in flight.
func (f *deliveryTest) holds(want int) {
	f.Helper()
	state, err := f.registry.State(f.Context(), f.addresses.Consumer)
	if err != nil {
		f.Fatal(err)
	}
	if got := state.Pending + state.InFlight; got != want {
		f.Errorf("the channel holds %d messages, want %d", got, want)
	}
}

func TestAStalledReaderIsCutOffAndLosesNothing(t *testing.T) {
	testDelivery(t, func(f *deliveryTest) {
		ended := f.run()
		if accepted := f.publish(100); accepted != 7 {
			f.Fatalf("%d messages were accepted, want what buffer and window hold", accepted)
		}
		start := time.Now()
		f.ends(ended, transport.Broken)
		if took := time.Since(start); took != f.delivery.writeTimeout {
			f.Errorf("cut off after %v", took)
		}
		if f.client.looks > 60 {
			f.Errorf("%d looks at a connection that stalls", f.client.looks)
		}
		f.delivery.sub.End(f.delivery.endOf(transport.Broken))
		f.holds(7)
		if ms, _ := f.subscribe().Take(nil, 1<<20); len(ms) != 3 {
			f.Errorf("%d messages come again", len(ms))
		}
	})
}

func TestAReaderThatAcknowledgesSlowlyIsKept(t *testing.T) {
	testDelivery(t, func(f *deliveryTest) {
		ended := f.run()
		accepted := f.publish(100)
		const rounds = 30
		for range rounds { // less than a message each time
			time.Sleep(9 * time.Second)
			f.client.acknowledge(90)
			time.Sleep(maxPause)
			synctest.Wait()
			accepted += f.publish(100)
		}
		if arrived := rounds * 9 / 10; accepted > 7+arrived || accepted < arrived {
			f.Errorf("%d messages were accepted, %d have arrived", accepted, arrived)
		}
		close(f.client.gone)
		f.ends(ended, transport.Broken)
	})
}

func TestAPlainReaderThatAcknowledgesIsNotSlowedDown(t *testing.T) {
	testDelivery(t, func(f *deliveryTest) {
		f.client.acksAtOnce = true
		ended := f.run()
		start := time.Now()
		if accepted := f.publish(1000); accepted != 1000 || time.Since(start) > 0 {
			f.Errorf("%d messages in %v", accepted, time.Since(start))
		}
		close(f.client.gone)
		f.ends(ended, transport.Broken)
	})
}

func TestTheCleanEndWaitsForTheClientsMachine(t *testing.T) {
	for name, test := range map[string]struct {
		then   func(*deliveryTest) // 100 ms after the end has begun
		within time.Duration
		how    broker.End
	}{
		"that has it all":        {nil, 0, broker.EndClean},
		"that acknowledges":      {func(f *deliveryTest) { f.client.acknowledge(200) }, maxLastLook, broker.EndClean},
		"that does not in time":  {func(*deliveryTest) {}, maxLastLook, broker.EndFault},
		"that misses one":        {func(f *deliveryTest) { f.client.acknowledge(100) }, maxLastLook, broker.EndFault},
		"that goes":              {func(f *deliveryTest) { close(f.client.gone) }, 100 * time.Millisecond, broker.EndFault},
		"until the process ends": {func(f *deliveryTest) { f.registry.Close() }, 100 * time.Millisecond, broker.EndClean},
	} {
		t.Run(name, func(t *testing.T) {
			testDelivery(t, func(f *deliveryTest) {
				f.delivery.duration = time.Second
				f.client.acksAtOnce = test.then == nil
				ended := f.run()
				f.publish(2)
				f.ends(ended, transport.Complete)
				start := time.Now()
				if test.then != nil {
					time.AfterFunc(100*time.Millisecond, func() { test.then(f) })
				}
				if how := f.delivery.endOf(transport.Complete); how != test.how {
					t.Errorf("how %v, want %v", how, test.how)
				}
				if took := time.Since(start); took > test.within {
					t.Errorf("it took %v", took)
				}
				if errors.Is(f.delivery.sub.Err(), broker.ErrClosed) {
					return
				}
				f.delivery.sub.End(test.how)
				f.holds(map[broker.End]int{broker.EndClean: 0, broker.EndFault: 2}[test.how])
				time.Sleep(time.Second)
			})
		})
	}
}

func TestAFailedWriteSettlesNothing(t *testing.T) {
	testDelivery(t, func(f *deliveryTest) {
		f.client.fail = errors.New("broken pipe")
		ended := f.run()
		f.publish(2)
		f.ends(ended, transport.Broken)
		f.delivery.sub.End(f.delivery.endOf(transport.Broken))
		f.holds(2)
	})
}

func TestHeartbeats(t *testing.T) {
	testDelivery(t, func(f *deliveryTest) {
		f.delivery.heartbeat, f.delivery.duration = 15*time.Second, time.Minute+time.Second
		f.ends(f.run(), transport.Complete)
		if n := f.client.heartbeats.Load(); n != 4 {
			f.Errorf("%d heartbeats", n)
		}
	})
}

// TestStreamsEndSpreadOverTime: the streams of a configuration that was replaced end at different times, and none
// lasts longer than it would have.
func TestStreamsEndSpreadOverTime(t *testing.T) {
	for _, left := range []time.Duration{time.Hour, 5 * time.Second} {
		const streams = 50
		times := map[time.Duration]bool{}
		for range streams {
			testDelivery(t, func(f *deliveryTest) {
				f.delivery.duration = left + time.Minute
				ended := f.run()
				time.Sleep(time.Minute)
				close(f.unloaded)
				start := time.Now()
				f.ends(ended, transport.GoingAway)
				took := time.Since(start)
				if took > min(left, MaxSpread) {
					t.Errorf("a stream with %v left has ended after %v", left, took)
				}
				times[took] = true
			})
		}
		if left > MaxSpread && len(times) < streams/2 {
			t.Errorf("%d streams have ended at %d times", streams, len(times))
		}
	}
}

func TestReceiptsOfHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newFakeClient()
		r := receipts{conn: client, patience: 1, settling: settling, slack: slack}
		looks := func(want int) {
			t.Helper()
			if got := r.update(10); got != want {
				t.Errorf("%d messages have arrived, want %d", got, want)
			}
		}
		// Nothing is queued because nothing may have been written yet.
		looks(0)
		time.Sleep(settling)
		looks(10)

		// The connection is full: what was handed over may wait for room when what is queued now has arrived.
		r = receipts{conn: client, patience: 1, settling: settling, slack: slack}
		client.written = 1 << 20
		looks(0)
		time.Sleep(settling)
		looks(0)
		client.written, client.acked = 2<<20, 1<<20
		looks(0)
		client.acked += slack
		looks(10)
	})
}
