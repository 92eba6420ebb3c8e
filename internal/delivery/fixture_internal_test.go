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

// A fakeClient is the far side of a delivery: a transport, and the connection below it.
type fakeClient struct {
	appended, sent int
	heartbeats     atomic.Int32
	gone           chan struct{}
	fail           error                  // of a Flush
	onEnd          func(transport.Reason) // End calls it, if it is not nil

	mu             sync.Mutex
	written, acked uint64 // bytes, a hundred for each message; guarded by mu
	acksAtOnce     bool
	checks         int // calls of State
}

func newFakeClient() *fakeClient { return &fakeClient{gone: make(chan struct{})} }

func (c *fakeClient) Start() error             { return nil }
func (c *fakeClient) Append(uuid.UUID, []byte) { c.appended++ }
func (c *fakeClient) Heartbeat() error         { c.heartbeats.Add(1); return nil }
func (c *fakeClient) Gone() <-chan struct{}    { return c.gone }

func (c *fakeClient) End(why transport.Reason) {
	if c.onEnd != nil {
		c.onEnd(why)
	}
}

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

// acknowledge makes some more bytes arrive.
func (c *fakeClient) acknowledge(bytes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked = min(c.written, c.acked+bytes)
}

// State implements [peer].
func (c *fakeClient) State() (acked uint64, queued int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checks++
	return c.acked, int(c.written - c.acked), nil
}

// Written implements [peer].
func (c *fakeClient) Written() (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written, nil
}

// A deliveryTest is a channel with a delivery to a fake client.
type deliveryTest struct {
	*testing.T

	broker    *memory.Broker
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
		d := &deliveryTest{
			T: t, broker: memory.New(), limits: brokerfixture.Limits, client: newFakeClient(), unloaded: make(chan struct{}),
		}
		defer d.broker.Close()
		d.limits.Buffer, d.limits.InFlight, d.limits.Hold = 4, 3, 0
		var err error
		if d.addresses, err = d.broker.Create(t.Context(), "main", d.limits); err != nil {
			t.Fatal(err)
		}
		d.delivery = Delivery{
			sub: d.subscribe(), transport: d.client, receipts: receipts{conn: d.client, maxUnconfirmed: 1},
			duration: time.Hour, writeTimeout: 10 * time.Second, unloaded: d.unloaded,
		}
		test(d)
	})
}

func (d *deliveryTest) subscribe() broker.Subscription {
	d.Helper()
	sub, err := d.broker.Subscribe(d.Context(), d.addresses.Consumer, broker.SubscribeOptions{Limits: d.limits})
	if err != nil {
		d.Fatal(err)
	}
	return sub
}

// publish publishes until the channel accepts no more, n messages at most. It returns how many were accepted.
func (d *deliveryTest) publish(n int) int {
	d.Helper()
	for i := range n {
		err := d.broker.Publish(d.Context(), d.addresses.Producer, brokerfixture.Message(d), d.limits)
		if errors.Is(err, broker.ErrTimeout) {
			return i
		}
		if err != nil {
			d.Fatal(err)
		}
		synctest.Wait()
	}
	return n
}

// oldest returns the oldest message that the channel holds.
func (d *deliveryTest) oldest() *broker.Message {
	d.Helper()
	ms, err := d.broker.Peek(d.Context(), d.addresses.Consumer, 1)
	if err != nil || len(ms) == 0 {
		d.Fatal("the channel holds no message", err)
	}
	return ms[0]
}

// run starts the delivery. The returned channel receives the reason for its end.
func (d *deliveryTest) run() <-chan transport.Reason {
	ended := make(chan transport.Reason, 1)
	go func() {
		reason, _ := d.delivery.run()
		ended <- reason
	}()
	synctest.Wait()
	return ended
}

// ends waits until the read has ended, and checks the reason.
func (d *deliveryTest) ends(ended <-chan transport.Reason, want transport.Reason) {
	d.Helper()
	if reason := <-ended; reason != want {
		d.Errorf("the read ends as %v, want %v", reason, want)
	}
}

// endsWithin is like ends, and checks how long the read lasts from now on.
func (d *deliveryTest) endsWithin(ended <-chan transport.Reason, want transport.Reason, limit time.Duration) {
	d.Helper()
	start := time.Now()
	d.ends(ended, want)
	if took := time.Since(start); took > limit {
		d.Errorf("the read ends after %v, want %v at most", took, limit)
	}
}

// leave makes the client go away, and waits until the read has ended.
func (d *deliveryTest) leave(ended <-chan transport.Reason) {
	d.Helper()
	close(d.client.gone)
	d.ends(ended, transport.Broken)
}

// holds checks how many messages the channel has, pending and in flight.
func (d *deliveryTest) holds(want int) {
	d.Helper()
	state, err := d.broker.State(d.Context(), d.addresses.Consumer)
	if err != nil {
		d.Fatal(err)
	}
	if got := state.Pending + state.InFlight; got != want {
		d.Errorf("the channel holds %d messages, want %d", got, want)
	}
}
