package redis

import (
	"errors"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
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

// broken returns a Broker in which every call to Redis panics, because it has no client.
func broken(t *testing.T) *Broker {
	t.Helper()
	b, err := New(Options{Addresses: []string{DefaultAddress}, DialTimeout: time.Second, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// wantPanics waits for panics of the Broker.
func wantPanics(t *testing.T, places chan guard.Place, n int) {
	t.Helper()
	for range n {
		select {
		case place := <-places:
			if place != guard.Broker {
				t.Errorf("a panic is reported in %v", place)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("too few panics are reported")
		}
	}
}

func (b *Broker) testItem() *item {
	return b.newItem(newChannelID(""), []string{"a message"}, &broker.Limits{Buffer: 1, Hold: time.Second})
}

// TestAWriteThatPanicsEnds: its outcome is unknown, and so is that of those in the same call. The lane goes on.
func TestAWriteThatPanicsEnds(t *testing.T) {
	places, b := reportedPanics(t), broken(t)
	for range 2 {
		items := []*item{b.testItem(), b.testItem()}
		b.submit(items)
		for _, it := range items {
			if !errors.Is(it.err, broker.ErrOutcomeUnknown) {
				t.Errorf("the write fails with %v", it.err)
			}
		}
		wantPanics(t, places, 1)
	}
}

// TestAnIngestThatPanicsEnds: its lines are failures.
func TestAnIngestThatPanicsEnds(t *testing.T) {
	places, b := reportedPanics(t), broken(t)
	in := b.Ingest(broker.Limits{Buffer: 1}).(*ingestion)
	in.broker = nil // so that it panics itself
	in.add(line{number: 1, message: "a message"})
	r := in.Finish(t.Context())
	if len(r.Failures) != 1 || r.Failures[0].Number != 1 || !errors.Is(r.Failures[0].Err, broker.ErrOutcomeUnknown) {
		t.Errorf("the result is %+v", r)
	}
	wantPanics(t, places, 1)
}

func TestABarrierThatPanicsLetsGo(t *testing.T) {
	places, b := reportedPanics(t), broken(t)
	for range 2 {
		if err := b.barriers[0].pass(); !errors.Is(err, broker.ErrOutcomeUnknown) {
			t.Errorf("error %v", err)
		}
		wantPanics(t, places, 1)
	}
}

// TestWorkGoesOnAfterAPanic: every round panics, and there is a next one until the Broker closes.
func TestWorkGoesOnAfterAPanic(t *testing.T) {
	places, b := reportedPanics(t), broken(t)
	go b.work()
	for range 3 {
		b.freed <- struct{}{}
	}
	flushed := make(chan struct{})
	b.flushes <- flushed
	<-flushed
	wantPanics(t, places, 4)
	b.closed.Store(true)
	close(b.closing)
	<-b.worked
}

// TestHeartbeatsGoOnAfterAPanic: each of them panics.
func TestHeartbeatsGoOnAfterAPanic(t *testing.T) {
	places, b := reportedPanics(t), broken(t)
	go b.keepBeating()
	for range 3 {
		b.heartbeat.due <- struct{}{}
	}
	wantPanics(t, places, 3)
	b.closed.Store(true)
	close(b.closing)
	<-b.heartbeat.stopped
}

// TestAListenerThatPanicsListensAgain: what it is pushed may panic, and so may listening.
func TestAListenerThatPanicsListensAgain(t *testing.T) {
	places, b := reportedPanics(t), broken(t)
	l := b.newListener("")
	l.scopes = []int{0}
	b.subs.all[1] = &subscription{fence: 1} // without a Broker
	frame := appendNumber([]byte{'d'}, fenceSize, 4)
	l.receive(string(appendNumber(frame, 1, fenceSize)))
	wantPanics(t, places, 1)
	select {
	case <-l.broken: // so it connects again, and readers resync
	default:
		t.Error("the connection is kept")
	}
	delete(b.subs.all, 1)
	go l.run()
	wantPanics(t, places, 2)
	b.health.mu.Lock()
	defer b.health.mu.Unlock()
	if err := b.health.bad[l]; !errors.Is(err, errPanic) {
		t.Errorf("health is %v", err)
	}
}

// TestAReadThatPanicsEnds: its client comes back.
func TestAReadThatPanicsEnds(t *testing.T) {
	for _, call := range []func(s *subscription){
		func(s *subscription) { s.report.more = true; s.changed() }, // which asks Redis
		func(s *subscription) {
			s.report.now, s.inFlight, s.head = true, 1, 1
			s.mu.Unlock()
			s.reportDue()
			s.mu.Lock()
		},
	} {
		places, b := reportedPanics(t), broken(t)
		s := &subscription{broker: b, done: make(chan struct{}), ready: make(chan struct{}, 1), limits: broker.Limits{InFlight: 1, Buffer: 1}}
		b.subs.add(s)
		s.mu.Lock()
		call(s)
		s.mu.Unlock()
		wantPanics(t, places, 1)
		select {
		case <-s.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("the read goes on")
		}
		if !errors.Is(s.Err(), broker.ErrClosed) || b.subs.get(s.fence) != nil {
			t.Errorf("it ends with %v", s.Err())
		}
	}
}

// TestAReportOfDeletionsThatPanicsCountsAsReported: otherwise it would be repeated for ever.
func TestAReportOfDeletionsThatPanicsCountsAsReported(t *testing.T) {
	places, b := reportedPanics(t), broken(t)
	b.OnDeletions(func([]broker.Deletion) { panic("boom") })
	reportTo(function(&b.reports.deletions), []broker.Deletion{{}})
	wantPanics(t, places, 1)
}
