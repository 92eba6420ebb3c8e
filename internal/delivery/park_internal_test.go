package delivery

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// parks starts the delivery as that of a read without a handler. The returned channel receives the reason for its end.
func (d *deliveryTest) parks() <-chan transport.Reason {
	ended := make(chan transport.Reason, 1)
	if err := d.delivery.Start(); err != nil {
		d.Fatal(err)
	}
	run := func() {
		if reason, parked := d.delivery.run(); !parked {
			ended <- reason
		}
	}
	d.delivery.MayPark(run)
	if !d.delivery.Park() {
		go run()
	}
	synctest.Wait()
	return ended
}

// isParked reports whether the read has no goroutine.
func (d *deliveryTest) isParked() bool {
	synctest.Wait()
	return d.delivery.parking.state.Load() == parked
}

func (d *deliveryTest) mustBeParked(when string) {
	d.Helper()
	if !d.isParked() {
		d.Fatalf("the read has a goroutine %s", when)
	}
}

// wantsSent checks how many messages the client was sent.
func (d *deliveryTest) wantsSent(n int) {
	d.Helper()
	if sent := d.client.messages(); sent != n {
		d.Errorf("%d messages were sent, want %d", sent, n)
	}
}

func TestAReadIsParkedWhileNothingComes(t *testing.T) {
	testDelivery(t, func(d *deliveryTest) {
		d.client.acksAtOnce = true
		ended := d.parks()
		d.mustBeParked("from the beginning")
		for i := range 3 {
			d.publish(1)
			d.wantsSent(i + 1)
			if d.isParked() {
				t.Error("the read is parked right after a message")
			}
			time.Sleep(2 * idleInterval)
			d.mustBeParked("long after a message")
		}
		time.Sleep(time.Until(d.delivery.endAt) - 1)
		d.mustBeParked("before its end")
		d.endsWithin(ended, transport.Complete, 1)
	})
}

func TestABusyReadIsNotParked(t *testing.T) {
	testDelivery(t, func(d *deliveryTest) {
		d.client.acksAtOnce = true
		ended := d.parks()
		d.publish(1)
		for range 100 {
			time.Sleep(idleInterval - 1)
			if d.isParked() {
				t.Fatal("the read is parked between two messages")
			}
			d.publish(1)
		}
		d.leave(ended)
	})
}

func TestAParkedReadEndsByEverythingThatEndsARead(t *testing.T) {
	for name, test := range map[string]struct {
		act    func(*deliveryTest)
		want   transport.Reason
		within time.Duration
	}{
		"client gone":     {func(d *deliveryTest) { close(d.client.gone); d.delivery.wake() }, transport.Broken, 0},
		"deadline":        {func(*deliveryTest) {}, transport.Complete, time.Hour},
		"channel deleted": {func(d *deliveryTest) { _ = d.broker.Delete(d.Context(), d.addresses.Producer) }, transport.Deleted, 0},
		"taken over": {func(d *deliveryTest) {
			_, _ = d.broker.Subscribe(d.Context(), d.addresses.Consumer, broker.SubscribeOptions{Limits: d.limits, TakeOver: true})
		}, transport.TakenOver, 0},
		"process exits": {func(d *deliveryTest) { d.broker.Close() }, transport.GoingAway, 0},
		"configuration replaced": {func(d *deliveryTest) {
			close(d.unloaded)
			d.streams.Wake()
			d.mustBeParked("until its time has come")
		}, transport.GoingAway, MaxSpread},
		"channel drained": {func(d *deliveryTest) {
			d.publish(1) // which is not acknowledged, so the channel is not deleted
			time.Sleep(2 * idleInterval)
			d.mustBeParked("after a message")
			d.broker.Drain(0)
		}, transport.GoingAway, 50*time.Millisecond + minDrained},
	} {
		t.Run(name, func(t *testing.T) {
			testDelivery(t, func(d *deliveryTest) {
				d.streams.Add(&d.delivery)
				ended := d.parks()
				d.mustBeParked("from the beginning")
				test.act(d)
				d.endsWithin(ended, test.want, test.within)
				d.streams.Remove(&d.delivery)
				d.delivery.sub.End(broker.EndClean)
			})
		})
	}
}

func TestAParkedReadHasItsHeartbeats(t *testing.T) {
	testDelivery(t, func(d *deliveryTest) {
		d.delivery.heartbeat, d.delivery.duration = 15*time.Second, time.Minute+time.Second
		ended := d.parks()
		for i := range 4 {
			time.Sleep(15*time.Second - 1)
			d.mustBeParked("before a heartbeat")
			time.Sleep(time.Nanosecond)
			d.mustBeParked("after a heartbeat")
			if n := d.client.heartbeats.Load(); n != int32(i+1) {
				t.Errorf("%d heartbeats, want %d", n, i+1)
			}
		}
		d.ends(ended, transport.Complete)
	})
}

func TestAReadWithAFullWindowIsNotParked(t *testing.T) {
	testDelivery(t, func(d *deliveryTest) {
		ended := d.parks()
		d.publish(100)
		time.Sleep(d.delivery.writeTimeout - time.Second)
		if d.isParked() {
			t.Error("the read is parked")
		}
		d.endsWithin(ended, transport.Broken, time.Second)
	})
}

// TestAnAcknowledgementWakesAParkedRead: it makes room in a window that is full.
func TestAnAcknowledgementWakesAParkedRead(t *testing.T) {
	testDelivery(t, func(d *deliveryTest) {
		d.client.acksAtOnce = true
		ended := d.parks()
		d.publish(1)
		d.delivery.sub.Settle(d.oldest().ID())
		d.publish(d.limits.InFlight + 1)
		time.Sleep(2 * idleInterval)
		d.mustBeParked("while the client has everything that the window lets out")
		d.wantsSent(1 + d.limits.InFlight)
		d.delivery.sub.Settle(d.oldest().ID())
		synctest.Wait()
		d.wantsSent(2 + d.limits.InFlight)
		d.leave(ended)
	})
}

// A remoteSubscription is a subscription that cannot call a function.
type remoteSubscription struct{ broker.Subscription }

func TestAReadIsNotParkedIfItsSubscriptionCannotWakeIt(t *testing.T) {
	testDelivery(t, func(d *deliveryTest) {
		d.delivery.sub = remoteSubscription{d.delivery.sub}
		ended := d.parks()
		time.Sleep(time.Minute)
		if d.isParked() {
			t.Error("the read is parked")
		}
		d.publish(1)
		d.wantsSent(1)
		d.ends(ended, transport.Complete)
	})
}

// BenchmarkWake measures what a message costs from its body to the transport, if the reader is parked before each message
// and if it has a goroutine.
func BenchmarkWake(b *testing.B) {
	for _, bench := range []struct {
		name     string
		interval time.Duration
	}{{"parked", 0}, {"with a goroutine", time.Hour}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			channels := memory.New()
			defer channels.Close()
			addresses, err := channels.Create(b.Context(), "main", brokerfixture.Limits)
			if err != nil {
				b.Fatal(err)
			}
			sub, err := channels.Subscribe(b.Context(), addresses.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits})
			if err != nil {
				b.Fatal(err)
			}
			client := &flushClient{flushed: make(chan struct{})}
			d := &Delivery{
				sub: sub, transport: client, receipts: receipts{maxUnconfirmed: 1}, duration: time.Hour, writeTimeout: time.Minute,
			}
			_ = d.Start()
			d.MayPark(func() { d.run() })
			d.parking.interval = bench.interval
			if !d.Park() {
				b.Fatal("the read is not parked")
			}
			for b.Loop() {
				if err := channels.Publish(b.Context(), addresses.Producer, brokerfixture.Message(b), brokerfixture.Limits); err != nil {
					b.Fatal(err)
				}
				<-client.flushed
				for bench.interval == 0 && d.parking.state.Load() != parked {
					runtime.Gosched()
				}
			}
		})
	}
}

// A flushClient reports each flush.
type flushClient struct{ flushed chan struct{} }

func (c *flushClient) Start() error             { return nil }
func (c *flushClient) Append(uuid.UUID, []byte) {}
func (c *flushClient) Heartbeat() error         { return nil }
func (c *flushClient) Gone() <-chan struct{}    { return nil }
func (c *flushClient) End(transport.Reason)     {}
func (c *flushClient) Flush() error             { c.flushed <- struct{}{}; return nil }
