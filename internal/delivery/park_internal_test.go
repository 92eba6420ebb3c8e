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
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// parks starts the feed as that of a read without a handler, and returns where its end is told.
func (f *deliveryTest) parks() <-chan transport.Reason {
	ended := make(chan transport.Reason, 1)
	if err := f.delivery.Start(); err != nil {
		f.Fatal(err)
	}
	run := func() {
		if why, parked := f.delivery.run(); !parked {
			ended <- why
		}
	}
	f.delivery.MayPark(run)
	if !f.delivery.Park() {
		go run()
	}
	synctest.Wait()
	return ended
}

// isParked reports whether the read has no goroutine.
func (f *deliveryTest) isParked() bool {
	synctest.Wait()
	return f.delivery.parking.state.Load() == parked
}

func (f *deliveryTest) mustBeParked(when string) {
	f.Helper()
	if !f.isParked() {
		f.Fatalf("the read has a goroutine %s", when)
	}
}

func TestAReadIsParkedWhileNothingComes(t *testing.T) {
	testDelivery(t, func(f *deliveryTest) {
		f.client.acksAtOnce = true
		ended := f.parks()
		f.mustBeParked("from the beginning")
		for i := range 3 {
			f.publish(1)
			if sent := f.client.messages(); sent != i+1 {
				t.Errorf("%d messages are sent, want %d", sent, i+1)
			}
			if f.isParked() {
				t.Error("it is parked right after a message")
			}
			time.Sleep(2 * idleCheck)
			f.mustBeParked("long after a message")
		}
		time.Sleep(time.Until(f.delivery.endAt) - 1)
		f.mustBeParked("before its end")
		start := time.Now()
		f.ends(ended, transport.Complete)
		if took := time.Since(start); took > 1 {
			t.Errorf("it ends %v late", took)
		}
	})
}

func TestABusyReadIsNotParked(t *testing.T) {
	testDelivery(t, func(f *deliveryTest) {
		f.client.acksAtOnce = true
		ended := f.parks()
		f.publish(1)
		for range 100 {
			time.Sleep(idleCheck - 1)
			if f.isParked() {
				t.Fatal("it is parked between two messages")
			}
			f.publish(1)
		}
		close(f.client.gone)
		f.ends(ended, transport.Broken)
	})
}

func TestAParkedReadEndsByWhateverEndsOne(t *testing.T) {
	for name, test := range map[string]struct {
		act    func(*deliveryTest)
		want   transport.Reason
		within time.Duration
	}{
		"client gone":     {func(f *deliveryTest) { close(f.client.gone); f.delivery.wake() }, transport.Broken, 0},
		"deadline":        {func(*deliveryTest) {}, transport.Complete, time.Hour},
		"channel deleted": {func(f *deliveryTest) { _ = f.registry.Delete(f.Context(), f.addresses.Producer) }, transport.Deleted, 0},
		"taken over": {func(f *deliveryTest) {
			_, _ = f.registry.Subscribe(f.Context(), f.addresses.Consumer, broker.SubscribeOptions{Limits: f.limits, TakeOver: true})
		}, transport.TakenOver, 0},
		"process exits": {func(f *deliveryTest) { f.registry.Close() }, transport.GoingAway, 0},
		"configuration replaced": {func(f *deliveryTest) {
			close(f.unloaded)
			f.streams.Wake()
			f.mustBeParked("until its time has come")
		}, transport.GoingAway, MaxSpread},
		"channel drained": {func(f *deliveryTest) {
			f.publish(1) // which is not acknowledged, so the channel is not deleted
			time.Sleep(2 * idleCheck)
			f.mustBeParked("after a message")
			f.registry.Drain(0)
		}, transport.GoingAway, 2*idleCheck + 50*time.Millisecond + minDrained},
	} {
		t.Run(name, func(t *testing.T) {
			testDelivery(t, func(f *deliveryTest) {
				f.streams.Add(&f.delivery)
				ended := f.parks()
				f.mustBeParked("from the beginning")
				start := time.Now()
				test.act(f)
				f.ends(ended, test.want)
				if took := time.Since(start); took > test.within {
					t.Errorf("it has ended after %v, want %v at the latest", took, test.within)
				}
				f.streams.Remove(&f.delivery)
				f.delivery.sub.End(broker.EndClean)
			})
		})
	}
}

func TestAParkedReadHasItsHeartbeats(t *testing.T) {
	testDelivery(t, func(f *deliveryTest) {
		f.delivery.heartbeat, f.delivery.duration = 15*time.Second, time.Minute+time.Second
		ended := f.parks()
		for i := range 4 {
			time.Sleep(15*time.Second - 1)
			f.mustBeParked("before a heartbeat")
			time.Sleep(time.Nanosecond)
			f.mustBeParked("after a heartbeat")
			if n := f.client.heartbeats.Load(); n != int32(i+1) {
				t.Errorf("%d heartbeats, want %d", n, i+1)
			}
		}
		f.ends(ended, transport.Complete)
	})
}

func TestAReadWhoseWindowIsFullIsNotParked(t *testing.T) {
	testDelivery(t, func(f *deliveryTest) {
		ended := f.parks()
		f.publish(100)
		time.Sleep(f.delivery.writeTimeout - time.Second)
		if f.isParked() {
			t.Error("it is parked")
		}
		start := time.Now()
		f.ends(ended, transport.Broken)
		if took := time.Since(start); took > time.Second {
			t.Errorf("cut off %v too late", took)
		}
	})
}

// What a reader acknowledges makes room in a window that is full, and wakes it.
func TestAParkedReadIsWokenByAnAcknowledgement(t *testing.T) {
	testDelivery(t, func(f *deliveryTest) {
		f.client.acksAtOnce = true
		ended := f.parks()
		f.publish(1)
		ms, err := f.registry.Peek(t.Context(), f.addresses.Consumer, 1)
		if err != nil {
			t.Fatal(err)
		}
		f.delivery.sub.Settle(ms[0].ID())
		f.publish(f.limits.InFlight + 1)
		time.Sleep(2 * idleCheck)
		f.mustBeParked("while the client has it all to acknowledge")
		if sent := f.client.messages(); sent != 1+f.limits.InFlight {
			t.Fatalf("%d messages are sent", sent)
		}
		if ms, err = f.registry.Peek(t.Context(), f.addresses.Consumer, 1); err != nil {
			t.Fatal(err)
		}
		f.delivery.sub.Settle(ms[0].ID())
		synctest.Wait()
		if sent := f.client.messages(); sent != 2+f.limits.InFlight {
			t.Errorf("%d messages are sent after there is room", sent)
		}
		close(f.client.gone)
		f.ends(ended, transport.Broken)
	})
}

// A remoteSubscription is one of a Broker that has no way to call a function.
type remoteSubscription struct{ broker.Subscription }

func TestAReadIsNotParkedWhoseSubscriptionCannotWakeIt(t *testing.T) {
	testDelivery(t, func(f *deliveryTest) {
		f.delivery.sub = remoteSubscription{f.delivery.sub}
		ended := f.parks()
		time.Sleep(time.Minute)
		if f.isParked() {
			t.Error("it is parked")
		}
		f.publish(1)
		if f.client.messages() != 1 {
			t.Error("the message is not sent")
		}
		f.ends(ended, transport.Complete)
	})
}

// A listClient is the far side of a read of the random test.
type listClient struct {
	gone     chan struct{}
	appended []uuid.UUID
	sent     []uuid.UUID
	count    atomic.Int32 // of sent
	working  atomic.Int32 // how many goroutines use it
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
func (c *listClient) State() (uint64, int, error)   { return 0, 0, nil }
func (c *listClient) Flush() error {
	defer c.use()()
	c.sent, c.appended = append(c.sent, c.appended...), nil
	c.count.Store(int32(len(c.sent)))
	return nil
}

// TestParkingLosesNothing has many reads that are parked and woken all the time, by messages, heartbeats, looks without a
// reason, takeovers, ends by time, clients that go, and configurations that are replaced. Each channel's consumer must see
// every message, in order, and every read must end by itself.
func TestParkingLosesNothing(t *testing.T) {
	registry := memory.New()
	defer registry.Close()
	limits := brokerfixture.Limits
	limits.Buffer, limits.InFlight, limits.Hold = 5, 1000, time.Minute
	var all sync.WaitGroup
	for n := range 40 {
		all.Go(func() {
			if err := parkAtRandom(t, registry, limits, rand.New(rand.NewPCG(1, uint64(n)))); err != nil {
				t.Errorf("channel %d: %v", n, err)
			}
		})
	}
	all.Wait()
}

// spin lets others go first, for a while that is random.
func spin(random *rand.Rand, limit int) func() {
	n := random.IntN(limit)
	return func() {
		for range n {
			runtime.Gosched()
		}
	}
}

// parkAtRandom reads a channel by one read after the other, while a producer writes to it now and then.
func parkAtRandom(t *testing.T, registry *memory.Broker, limits broker.Limits, random *rand.Rand) error {
	addresses, err := registry.Create(t.Context(), "main", limits)
	if err != nil {
		return err
	}
	const messages = 300
	var accepted []uuid.UUID
	var failed error
	produced := make(chan struct{})
	pauses := make([]func(), messages)
	for i := range pauses {
		pauses[i] = spin(random, 20)
	}
	go func() {
		defer close(produced)
		for _, pause := range pauses {
			pause()
			m := brokerfixture.Message(t)
			accepted = append(accepted, m.ID())
			if failed = registry.Publish(t.Context(), addresses.Producer, m, limits); failed != nil {
				return
			}
		}
	}()
	var seen []uuid.UUID
	for reads, cursor := 0, ""; len(seen) < messages; reads++ {
		if reads > 10_000 {
			return fmt.Errorf("%d of %d messages after %d reads", len(seen), messages, reads)
		}
		client, err := readAtRandom(t, registry, addresses, limits, cursor, random, produced)
		if err != nil {
			return err
		}
		for _, id := range client.sent {
			if !slices.Contains(seen, id) {
				seen = append(seen, id)
			}
		}
		if len(seen) > 0 {
			cursor = seen[len(seen)-1].String()
		}
	}
	if <-produced; failed != nil {
		return failed
	}
	if !slices.Equal(seen, accepted) {
		return errors.New("the consumer has not seen what was accepted, in its order")
	}
	return nil
}

// readAtRandom reads until something ends the read, which is told by nothing else: whatever wakes it must not be lost.
func readAtRandom(t *testing.T, registry *memory.Broker, addresses broker.Addresses, limits broker.Limits, cursor string, random *rand.Rand, produced <-chan struct{}) (*listClient, error) {
	o := broker.SubscribeOptions{Limits: limits, Follow: true, After: cursor}
	sub, err := registry.Subscribe(t.Context(), addresses.Consumer, o)
	if err != nil {
		return nil, err
	}
	client, unloaded := &listClient{gone: make(chan struct{})}, make(chan struct{})
	f := &Delivery{
		sub: sub, transport: client, receipts: receipts{patience: 1}, writeTimeout: time.Minute, follows: true, unloaded: unloaded,
		duration: time.Hour,
	}
	if random.IntN(2) == 0 {
		f.heartbeat = 100*time.Microsecond + time.Duration(random.Int64N(int64(time.Millisecond)))
	}
	enough := int32(random.IntN(10))
	ends := []func(){
		func() { close(client.gone); f.wake() },
		func() {
			o := o
			o.TakeOver = true
			if sub, err := registry.Subscribe(t.Context(), addresses.Consumer, o); err == nil {
				sub.End(broker.EndFault)
			}
		},
		nil,
	}
	end := ends[random.IntN(len(ends))]
	if end == nil {
		f.duration = time.Duration(random.Int64N(int64(5 * time.Millisecond)))
	}
	var streams DetachedStreams
	streams.Add(f)
	ended := make(chan transport.Reason, 1)
	_ = f.Start()
	f.MayPark(func() {
		if why, parked := f.run(); !parked {
			ended <- why
		}
	})
	f.parking.check = 0
	if !f.Park() {
		go f.parking.resume()
	}
	var acts sync.WaitGroup
	act := func(do func()) {
		pause := spin(random, 200)
		acts.Go(func() { pause(); do() })
	}
	act(f.wake)
	if random.IntN(3) == 0 {
		act(func() { close(unloaded); streams.Wake() })
	}
	if end != nil {
		act(func() {
			for client.count.Load() < enough {
				select {
				case <-produced:
					end()
					return
				case <-t.Context().Done():
					return
				default:
					runtime.Gosched()
				}
			}
			end()
		})
	}
	select {
	case why := <-ended:
		sub.End(f.endOf(why))
	case <-time.After(30 * time.Second):
		return nil, fmt.Errorf("a read does not end that has sent %d messages; %d are enough", client.count.Load(), enough)
	}
	acts.Wait()
	return client, nil
}

// BenchmarkWake is what a message costs whose reader is parked before each, and whose reader has a goroutine, from its
// body to the transport.
func BenchmarkWake(b *testing.B) {
	for _, bench := range []struct {
		name  string
		check time.Duration
	}{{"parked", 0}, {"with a goroutine", time.Hour}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			registry := memory.New()
			defer registry.Close()
			addresses, err := registry.Create(b.Context(), "main", brokerfixture.Limits)
			if err != nil {
				b.Fatal(err)
			}
			sub, err := registry.Subscribe(b.Context(), addresses.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits})
			if err != nil {
				b.Fatal(err)
			}
			client := &flushClient{flushed: make(chan struct{})}
			f := &Delivery{sub: sub, transport: client, receipts: receipts{patience: 1}, duration: time.Hour, writeTimeout: time.Minute}
			_ = f.Start()
			f.MayPark(func() { f.run() })
			f.parking.check = bench.check
			if !f.Park() {
				b.Fatal("the read is not parked")
			}
			for b.Loop() {
				if err := registry.Publish(b.Context(), addresses.Producer, brokerfixture.Message(b), brokerfixture.Limits); err != nil {
					b.Fatal(err)
				}
				<-client.flushed
				for bench.check == 0 && f.parking.state.Load() != parked {
					runtime.Gosched()
				}
			}
		})
	}
}

// A flushClient tells of each flush.
type flushClient struct{ flushed chan struct{} }

func (c *flushClient) Start() error             { return nil }
func (c *flushClient) Append(uuid.UUID, []byte) {}
func (c *flushClient) Heartbeat() error         { return nil }
func (c *flushClient) Gone() <-chan struct{}    { return nil }
func (c *flushClient) End(transport.Reason)     {}
func (c *flushClient) Flush() error             { c.flushed <- struct{}{}; return nil }
