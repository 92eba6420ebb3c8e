package delivery

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

func TestAStalledReaderIsCutOffAndLosesNothing(t *testing.T) {
	testDelivery(t, func(d *deliveryTest) {
		ended := d.run()
		if accepted := d.publish(100); accepted != 7 {
			d.Fatalf("%d messages were accepted, want what buffer and window hold", accepted)
		}
		start := time.Now()
		d.ends(ended, transport.Broken)
		if took := time.Since(start); took != d.delivery.writeTimeout {
			d.Errorf("cut off after %v", took)
		}
		if d.client.checks > 60 {
			d.Errorf("the stalled connection was checked %d times", d.client.checks)
		}
		d.delivery.sub.End(d.delivery.endOf(transport.Broken))
		d.holds(7)
		if ms, _ := d.subscribe().Take(nil, 1<<20); len(ms) != 3 {
			d.Errorf("%d messages are sent again, want 3", len(ms))
		}
	})
}

func TestAReaderThatAcknowledgesSlowlyIsKept(t *testing.T) {
	testDelivery(t, func(d *deliveryTest) {
		ended := d.run()
		accepted := d.publish(100)
		const rounds = 30
		for range rounds { // less than a message each time
			time.Sleep(9 * time.Second)
			d.client.acknowledge(90)
			time.Sleep(maxCheckPause)
			synctest.Wait()
			accepted += d.publish(100)
		}
		if arrived := rounds * 9 / 10; accepted > 7+arrived || accepted < arrived {
			d.Errorf("%d messages were accepted, and %d have arrived", accepted, arrived)
		}
		d.leave(ended)
	})
}

func TestAPlainReaderThatAcknowledgesIsNotSlowedDown(t *testing.T) {
	testDelivery(t, func(d *deliveryTest) {
		d.client.acksAtOnce = true
		ended := d.run()
		start := time.Now()
		if accepted := d.publish(1000); accepted != 1000 || time.Since(start) > 0 {
			d.Errorf("%d messages were accepted in %v", accepted, time.Since(start))
		}
		d.leave(ended)
	})
}

func TestTheCleanEndWaitsForTheClientsMachine(t *testing.T) {
	for name, test := range map[string]struct {
		then   func(*deliveryTest) // 100 ms after the end has begun
		within time.Duration
		how    broker.End
	}{
		"that has everything":    {nil, 0, broker.EndClean},
		"that acknowledges":      {func(d *deliveryTest) { d.client.acknowledge(200) }, maxFinalCheck, broker.EndClean},
		"that does not in time":  {func(*deliveryTest) {}, maxFinalCheck, broker.EndFault},
		"that misses a message":  {func(d *deliveryTest) { d.client.acknowledge(100) }, maxFinalCheck, broker.EndFault},
		"that goes away":         {func(d *deliveryTest) { close(d.client.gone) }, 100 * time.Millisecond, broker.EndFault},
		"until the process ends": {func(d *deliveryTest) { d.broker.Close() }, 100 * time.Millisecond, broker.EndFault},
		"that acknowledges just before": {func(d *deliveryTest) {
			d.client.acknowledge(200)
			d.broker.Close()
		}, maxFinalCheck, broker.EndClean},
	} {
		t.Run(name, func(t *testing.T) {
			testDelivery(t, func(d *deliveryTest) {
				d.delivery.duration = time.Second
				d.client.acksAtOnce = test.then == nil
				ended := d.run()
				d.publish(2)
				d.ends(ended, transport.Complete)
				start := time.Now()
				if test.then != nil {
					time.AfterFunc(100*time.Millisecond, func() { test.then(d) })
				}
				if how := d.delivery.endOf(transport.Complete); how != test.how {
					t.Errorf("the end is %v, want %v", how, test.how)
				}
				if took := time.Since(start); took > test.within {
					t.Errorf("the end takes %v, want %v at most", took, test.within)
				}
				if errors.Is(d.delivery.sub.Err(), broker.ErrClosed) {
					return
				}
				d.delivery.sub.End(test.how)
				d.holds(map[broker.End]int{broker.EndClean: 0, broker.EndFault: 2}[test.how])
				time.Sleep(time.Second)
			})
		})
	}
}

func TestAFailedWriteSettlesNothing(t *testing.T) {
	testDelivery(t, func(d *deliveryTest) {
		d.client.fail = errors.New("broken pipe")
		ended := d.run()
		d.publish(2)
		d.ends(ended, transport.Broken)
		d.delivery.sub.End(d.delivery.endOf(transport.Broken))
		d.holds(2)
	})
}

// TestTheChannelIsFreeBeforeTheEndOfTheResponse has a client that has taken some messages, and now stalls. The end of the
// response may wait for it as long as a write may. The channel must not: whatever ends the read, the next reader gets the
// channel maxFinalCheck later, and all the messages.
func TestTheChannelIsFreeBeforeTheEndOfTheResponse(t *testing.T) {
	for name, test := range map[string]struct {
		end    func(*deliveryTest)
		reason transport.Reason
		within time.Duration
	}{
		"its time is over":              {func(*deliveryTest) { time.Sleep(time.Hour) }, transport.Complete, maxFinalCheck},
		"the configuration is replaced": {func(d *deliveryTest) { close(d.unloaded) }, transport.GoingAway, MaxSpread + maxFinalCheck},
		"the broker is drained":         {func(d *deliveryTest) { d.broker.Drain(0) }, transport.GoingAway, minDrained + maxFinalCheck},
		"the client leaves":             {func(d *deliveryTest) { close(d.client.gone) }, transport.Broken, 0},
	} {
		t.Run(name, func(t *testing.T) {
			testDelivery(t, func(d *deliveryTest) {
				ending, ended := make(chan transport.Reason, 1), make(chan struct{})
				d.client.onEnd = func(why transport.Reason) {
					ending <- why
					time.Sleep(d.delivery.writeTimeout)
				}
				go func() {
					defer close(ended)
					d.delivery.Deliver()
				}()
				d.publish(2)
				test.end(d)
				d.endsWithin(ending, test.reason, test.within)
				if ms, _ := d.subscribe().Take(nil, 1<<20); len(ms) != 2 {
					t.Errorf("the next reader is sent %d messages, want both", len(ms))
				}
				select {
				case <-ended:
					t.Error("the response has ended, although its client takes nothing")
				default:
				}
				<-ended
			})
		})
	}
}

func TestHeartbeats(t *testing.T) {
	testDelivery(t, func(d *deliveryTest) {
		d.delivery.heartbeat, d.delivery.duration = 15*time.Second, time.Minute+time.Second
		d.ends(d.run(), transport.Complete)
		if n := d.client.heartbeats.Load(); n != 4 {
			d.Errorf("%d heartbeats, want 4", n)
		}
	})
}

// TestStreamsEndSpreadOverTime: the streams of a replaced configuration end at different times, and none lasts longer than
// it would have.
func TestStreamsEndSpreadOverTime(t *testing.T) {
	for _, left := range []time.Duration{time.Hour, 5 * time.Second} {
		const streams = 50
		times := map[time.Duration]bool{}
		for range streams {
			testDelivery(t, func(d *deliveryTest) {
				d.delivery.duration = left + time.Minute
				ended := d.run()
				time.Sleep(time.Minute)
				close(d.unloaded)
				start := time.Now()
				d.ends(ended, transport.GoingAway)
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
