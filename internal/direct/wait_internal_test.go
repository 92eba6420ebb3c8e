package direct

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A slowBroker asks its test about each message that it is not given in PublishNow.
type slowBroker struct {
	broker.Broker

	publish func(ctx context.Context) error
}

func (*slowBroker) PublishNow(string, *broker.Message, broker.Limits) bool { return false }

func (b *slowBroker) Publish(ctx context.Context, _ string, _ *broker.Message, _ broker.Limits) error {
	return b.publish(ctx)
}

// newSlowSite returns a site with a connection that is served directly, and makes its Broker slow.
func newSlowSite(t *testing.T, publish func(ctx context.Context) error) *testSite {
	s := newTestSite(t)
	s.SampleEvery = 1 << 20
	slow := &slowBroker{s.Broker, func(context.Context) error { return nil }}
	s.Broker = slow
	s.writes(minWrites)
	s.await(func() bool { return testutil.ToFloat64(s.Count) == 1 })
	slow.publish = publish
	return s
}

func (s *testSite) await(condition func() bool) {
	s.Helper()
	for end := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.Fatal("the condition does not hold after 10s")
		}
	}
}

// sendShort sends a write.
func (s *testSite) sendShort() {
	s.Helper()
	if _, err := fmt.Fprintf(s.client, "POST /write/%s/stream HTTP/1.1\r\nHost: localhost\r\n"+
		"Content-Type: application/json\r\nContent-Length: 1\r\n\r\n1", s.address.Producer); err != nil {
		s.Error(err)
	}
}

func TestAWaitEndsWhenTheClientGoes(t *testing.T) {
	waits := make(chan struct{})
	s := newSlowSite(t, func(ctx context.Context) error {
		close(waits)
		<-ctx.Done()
		return ctx.Err()
	})
	go func() {
		<-waits
		if s.Waits.Load() != 1 {
			t.Error("the write does not count as one that waits")
		}
		s.client.Close()
	}()
	s.sendShort()
	s.await(func() bool { return testutil.ToFloat64(s.Count) == 0 && s.Waits.Load() == 0 })
}

// TestWhatArrivesWhileAWriteWaitsIsServed: the watch has read it.
func TestWhatArrivesWhileAWriteWaitsIsServed(t *testing.T) {
	var conn atomic.Pointer[producerConn]
	waits := make(chan bool)
	s := newSlowSite(t, func(context.Context) error {
		w, more := &conn.Load().watch, <-waits
		for more {
			time.Sleep(time.Millisecond)
			w.mu.Lock()
			more = w.read == 0
			w.mu.Unlock()
		}
		return broker.ErrTimeout
	})
	s.Conns.mu.Lock()
	for c := range s.Conns.conns {
		conn.Store(c)
	}
	s.Conns.mu.Unlock()
	s.sendShort()
	const writes = 4
	for i := range writes {
		more := i < writes-1
		if waits <- more; more {
			s.sendShort() // while the last one waits
		}
		reply, err := http.ReadResponse(s.replies, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _ = io.Copy(io.Discard, reply.Body); reply.StatusCode != http.StatusServiceUnavailable {
			t.Error(reply.Status)
		}
	}
}

func TestABrokerThatPanicsClosesTheConnectionOnly(t *testing.T) {
	before := guard.OnPanic(func(guard.Place, any, []byte) {})
	defer func() { guard.OnPanic(before) }()
	s := newSlowSite(t, func(context.Context) error {
		time.Sleep(2 * unwatched) // so the watch reads
		panic("boom")
	})
	s.wantsItsEnd()
}

// wantsItsEnd sends a write in which the Broker panics.
func (s *testSite) wantsItsEnd() {
	s.Helper()
	s.sendShort()
	if _, err := s.replies.ReadByte(); err == nil {
		s.Error("there is a reply")
	}
	s.await(func() bool { return testutil.ToFloat64(s.Count) == 0 && s.Waits.Load() == 0 })
}

// A panickyStore is a Broker with a store that panics.
type panickyStore struct{ slowBroker }

func (*panickyStore) PublishThen(string, *broker.Message, broker.Limits, broker.Continuation) bool {
	panic("boom")
}

// TestAStoreThatPanicsHoldsUpNoExit: the exit waits for writes that wait.
func TestAStoreThatPanicsHoldsUpNoExit(t *testing.T) {
	before := guard.OnPanic(func(guard.Place, any, []byte) {})
	defer func() { guard.OnPanic(before) }()
	s := newSlowSite(t, nil)
	s.Broker = &panickyStore{}
	s.wantsItsEnd()
}
