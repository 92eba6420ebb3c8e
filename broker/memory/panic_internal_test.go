package memory

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// reportedPanics returns a channel that gets the place of each panic until the test ends.
func reportedPanics(t *testing.T) chan guard.Place {
	t.Helper()
	places := make(chan guard.Place, 100)
	before := guard.OnPanic(func(place guard.Place, _ any, _ []byte) { places <- place })
	t.Cleanup(func() { guard.OnPanic(before) })
	return places
}

// TestAReportOfDeletionsThatPanicsStopsNoSweep: the report is somebody else's code, and the Broker's goroutine calls it.
func TestAReportOfDeletionsThatPanicsStopsNoSweep(t *testing.T) {
	places := reportedPanics(t)
	synctest.Test(t, func(t *testing.T) {
		b := New()
		defer b.Close()
		calls := 0
		b.OnDeletions(func([]broker.Deletion) { calls++; panic("boom") })
		l := brokerfixture.Limits
		l.TTL = 2 * time.Second
		for i := range 3 {
			mustCreate(t, b, l)
			time.Sleep(l.TTL + 2*sweepInterval)
			synctest.Wait()
			if b.channelCount() != 0 || calls != i+1 {
				t.Fatalf("after sweep %d there are %d channels, and %d reports were made", i+1, b.channelCount(), calls)
			}
		}
		mustDelete(t, b)
		b.FlushDeletions() // returns nevertheless
		if calls != 4 {
			t.Errorf("%d reports, want 4", calls)
		}
	})
	if len(places) != 4 || <-places != guard.Broker {
		t.Errorf("%d panics were reported, want 4", len(places))
	}
}

// mustDelete creates and deletes a channel.
func mustDelete(t *testing.T, b *Broker) {
	t.Helper()
	if err := b.Delete(t.Context(), mustCreate(t, b, brokerfixture.Limits).Producer); err != nil {
		t.Fatal(err)
	}
}

// TestAProducerThatPanicsHarmsNoChannel: waiting producers are told with their channel's lock held, by whoever admits or
// fails them. If that panics, the channel goes on, and so does the goroutine that did it.
func TestAProducerThatPanicsHarmsNoChannel(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, b *Broker, c *channel){
		"the reader makes room": func(t *testing.T, _ *Broker, c *channel) { takeAll(t, c) },
		"a sweep": func(_ *testing.T, _ *Broker, c *channel) {
			c.expires.Store(1)
			time.Sleep(2 * sweepInterval)
		},
		"a drain":         func(_ *testing.T, b *Broker, _ *channel) { b.Drain(time.Second); time.Sleep(2 * time.Second) },
		"the Broker ends": func(_ *testing.T, b *Broker, _ *channel) { b.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			places := reportedPanics(t)
			synctest.Test(t, func(t *testing.T) {
				b := New()
				defer b.Close()
				l := brokerfixture.Limits
				l.Buffer, l.Hold = 1, time.Hour
				c, err := b.lookup(mustCreate(t, b, l).Producer, producerKind)
				if err != nil {
					t.Fatal(err)
				}
				if ok, _, _ := c.publishNow(brokerfixture.Message(t), &l); !ok {
					t.Fatal("there is no room")
				}
				told := false
				for _, owner := range []ownerFunc{func() { panic("boom") }, func() { told = true }} {
					w := &waiter{channel: c, ms: []*broker.Message{brokerfixture.Message(t)}, limits: l, owner: owner}
					if c.publish(w) {
						t.Fatal("the producer does not wait")
					}
				}
				end(t, b, c)
				synctest.Wait()
				if name == "the reader makes room" {
					takeAll(t, c) // for the second producer
				}
				if !told {
					t.Error("the next producer still waits")
				}
				if b.waiters.Load() != 0 || b.budget.held.Load() != 0 {
					t.Errorf("%d producers and %d bytes are still held", b.waiters.Load(), b.budget.held.Load())
				}
				if !c.mu.TryLock() {
					t.Fatal("the channel's lock is held")
				}
				c.mu.Unlock()
			})
			if len(places) != 1 || <-places != guard.Broker {
				t.Errorf("%d more panics were reported", len(places))
			}
		})
	}
}

// TestALineThatPanicsHarmsNoIngestion: the timer of an ingestion fails lines, which may panic. Later lines still fail in time.
func TestALineThatPanicsHarmsNoIngestion(t *testing.T) {
	places := reportedPanics(t)
	synctest.Test(t, func(t *testing.T) {
		b := New()
		defer b.Close()
		l := brokerfixture.Limits
		l.Buffer, l.Hold = 1, time.Second
		full := mustCreate(t, b, l)
		if !b.PublishNow(full.Producer, brokerfixture.Message(t), l) {
			t.Fatal("there is no room")
		}
		in := b.Ingest(l).(*ingestion)
		in.hold(&heldLine{ingestion: in, due: time.Now()}) // a line without a channel
		time.Sleep(l.Hold / 2)
		if err := in.Write(t.Context(), 1, []byte(full.Producer), brokerfixture.Message(t)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * l.Hold)
		synctest.Wait()
		in.mu.Lock()
		failed := in.failed
		in.mu.Unlock()
		if failed != 1 {
			t.Errorf("%d lines have failed, want the one that waits", failed)
		}
		in.heldLines()[0].finished()
		in.Finish(t.Context())
	})
	if len(places) == 0 || len(places) > 10 || <-places != guard.Broker {
		t.Errorf("%d panics were reported", len(places))
	}
}
