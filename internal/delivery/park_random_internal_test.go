package delivery

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// TestParkingLosesNothing has many reads that are parked and woken all the time: by messages, heartbeats and wake-ups
// without a reason, by takeovers, by the end of their time, by clients that go away, and by configurations that are
// replaced. Each channel's consumer must see every message, in order, and every read must end by itself.
func TestParkingLosesNothing(t *testing.T) {
	channels := memory.New()
	defer channels.Close()
	limits := brokerfixture.Limits
	limits.Buffer, limits.InFlight, limits.Hold = 5, 1000, time.Minute
	var all sync.WaitGroup
	for n := range 40 {
		all.Go(func() {
			c := randomConsumer{
				T: t, broker: channels, limits: limits, random: rand.New(rand.NewPCG(1, uint64(n))), produced: make(chan struct{}),
			}
			if err := c.consume(); err != nil {
				t.Errorf("channel %d: %v", n, err)
			}
		})
	}
	all.Wait()
}

// A randomConsumer reads a channel by one read after the other, while a producer writes to the channel now and then.
type randomConsumer struct {
	*testing.T

	broker    *memory.Broker
	limits    broker.Limits
	random    *rand.Rand
	addresses broker.Addresses

	produced chan struct{} // closed when the producer has ended
	accepted []uuid.UUID   // what it wrote; for others, once produced is closed
	failed   error         // why it ended early; likewise
}

const randomMessages = 300

// consume reads until all messages were seen, and checks them.
func (c *randomConsumer) consume() error {
	var err error
	if c.addresses, err = c.broker.Create(c.Context(), "main", c.limits); err != nil {
		return err
	}
	pauses := make([]func(), randomMessages)
	for i := range pauses {
		pauses[i] = c.spin(20)
	}
	go c.produce(pauses)
	var seen []uuid.UUID
	for reads, cursor := 0, ""; len(seen) < randomMessages; reads++ {
		if reads > 10_000 {
			return fmt.Errorf("%d of %d messages were seen after %d reads", len(seen), randomMessages, reads)
		}
		sent, err := c.read(cursor)
		if err != nil {
			return err
		}
		for _, id := range sent {
			if !slices.Contains(seen, id) {
				seen = append(seen, id)
			}
		}
		if len(seen) > 0 {
			cursor = seen[len(seen)-1].String()
		}
	}
	if <-c.produced; c.failed != nil {
		return c.failed
	}
	if !slices.Equal(seen, c.accepted) {
		return errors.New("the consumer has not seen what was accepted, in its order")
	}
	return nil
}

// produce writes a message after each pause.
func (c *randomConsumer) produce(pauses []func()) {
	defer close(c.produced)
	for _, pause := range pauses {
		pause()
		m := brokerfixture.Message(c)
		c.accepted = append(c.accepted, m.ID())
		if c.failed = c.broker.Publish(c.Context(), c.addresses.Producer, m, c.limits); c.failed != nil {
			return
		}
	}
}

// spin returns a function that lets other goroutines run, for a random while.
func (c *randomConsumer) spin(limit int) func() {
	n := c.random.IntN(limit)
	return func() {
		for range n {
			runtime.Gosched()
		}
	}
}

// options are those of a read that follows cursors.
func (c *randomConsumer) options(cursor string) broker.SubscribeOptions {
	return broker.SubscribeOptions{Limits: c.limits, Follow: true, After: cursor}
}

// read reads until something ends the read, and returns what was sent. There is one cause for the end, and the read is not
// woken for it again: no wake-up may be lost.
func (c *randomConsumer) read(cursor string) (sent []uuid.UUID, err error) {
	sub, err := c.broker.Subscribe(c.Context(), c.addresses.Consumer, c.options(cursor))
	if err != nil {
		return nil, err
	}
	client, unloaded := &listClient{gone: make(chan struct{})}, make(chan struct{})
	d := &Delivery{
		sub: sub, transport: client, receipts: receipts{maxUnconfirmed: 1},
		duration: time.Hour, writeTimeout: time.Minute, follows: true, unloaded: unloaded,
	}
	if c.random.IntN(2) == 0 {
		d.heartbeat = 100*time.Microsecond + time.Duration(c.random.Int64N(int64(time.Millisecond)))
	}
	enough := int32(c.random.IntN(10))
	end := c.randomEnd(d, client, cursor)
	var streams DetachedStreams
	streams.Add(d)
	ended := c.startParked(d)
	var acts sync.WaitGroup
	act := func(do func()) {
		pause := c.spin(200)
		acts.Go(func() { pause(); do() })
	}
	act(d.wake)
	if c.random.IntN(3) == 0 {
		act(func() { close(unloaded); streams.Wake() })
	}
	if end != nil {
		act(func() { c.awaitSent(client, enough); end() })
	}
	select {
	case reason := <-ended:
		sub.End(d.endOf(reason))
	case <-time.After(30 * time.Second):
		return nil, fmt.Errorf("a read that has sent %d messages does not end, although %d are enough", client.count.Load(), enough)
	}
	acts.Wait()
	return client.sent, nil
}

// randomEnd chooses what ends a read, and returns a function that does it. If the function is nil, the end of the read's
// time ends it.
func (c *randomConsumer) randomEnd(d *Delivery, client *listClient, cursor string) func() {
	switch c.random.IntN(3) {
	case 0:
		return func() { close(client.gone); d.wake() }
	case 1:
		return func() {
			o := c.options(cursor)
			o.TakeOver = true
			if sub, err := c.broker.Subscribe(c.Context(), c.addresses.Consumer, o); err == nil {
				sub.End(broker.EndFault)
			}
		}
	default:
		d.duration = time.Duration(c.random.Int64N(int64(5 * time.Millisecond)))
		return nil
	}
}

// startParked starts a delivery that is parked whenever it can be. The returned channel receives the reason for its end.
func (*randomConsumer) startParked(d *Delivery) <-chan transport.Reason {
	ended := make(chan transport.Reason, 1)
	_ = d.Start()
	d.MayPark(func() {
		if reason, parked := d.run(); !parked {
			ended <- reason
		}
	})
	d.parking.interval = 0
	if !d.Park() {
		go d.parking.resume()
	}
	return ended
}

// awaitSent waits until a client was sent enough, or until the producer has ended. It returns early if the test ends.
func (c *randomConsumer) awaitSent(client *listClient, enough int32) {
	for client.count.Load() < enough {
		select {
		case <-c.produced:
			return
		case <-c.Context().Done():
			return
		default:
			runtime.Gosched()
		}
	}
}

// A listClient is a client that lists what it was sent. It panics if two goroutines have the read.
type listClient struct {
	gone     chan struct{}
	appended []uuid.UUID
	sent     []uuid.UUID
	count    atomic.Int32 // how many were sent
	working  atomic.Int32 // how many goroutines use the client
}

func (c *listClient) use() func() {
	if c.working.Add(1) > 1 {
		panic("two goroutines have one read")
	}
	return func() { c.working.Add(-1) }
}

func (c *listClient) Start() error                  { return nil }
func (c *listClient) Append(id uuid.UUID, _ []byte) { c.appended = append(c.appended, id) }
func (c *listClient) Heartbeat() error              { defer c.use()(); return nil }
func (c *listClient) Gone() <-chan struct{}         { return c.gone }
func (c *listClient) End(transport.Reason)          {}
func (c *listClient) Flush() error {
	defer c.use()()
	c.sent, c.appended = append(c.sent, c.appended...), nil
	c.count.Store(int32(len(c.sent)))
	return nil
}
