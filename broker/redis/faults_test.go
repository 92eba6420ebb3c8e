package redis_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

var faultLimits = broker.Limits{
	Buffer: 100, InFlight: 100, Hold: time.Second, TTL: time.Minute, MaxChannels: 1000, MaxMemory: 1 << 30,
}

func publish(t *testing.T, b *redis.Broker, producer, name string) {
	t.Helper()
	m, err := broker.NewMessage(name, []byte("null"), "")
	if err == nil {
		err = b.Publish(t.Context(), producer, m, faultLimits)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// takes waits until a reader has taken messages with these stream ids, and no others.
func takes(t *testing.T, sub broker.Subscription, want ...string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for n := 0; n < len(want); {
		select {
		case <-sub.Ready():
		case <-sub.Done():
			t.Fatalf("the subscription is over: %v", sub.Err())
		case <-limit:
			t.Fatalf("message %q does not come", want[n])
		}
		ms, _ := sub.Take(nil, 1<<20)
		for _, m := range ms {
			if n == len(want) || m.StreamID() != want[n] {
				t.Fatalf("the reader takes %q, want %q", m.StreamID(), want[min(n, len(want)-1)])
			}
			n++
		}
	}
}

// TestLostConnectionsLoseNothing cuts all connections to Redis again and again while a producer writes. A reader gets every
// message that was accepted, in order.
func TestLostConnectionsLoseNothing(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	o := s.options("test:")
	writer, reader := open(t, o), open(t, o)
	a, err := writer.Create(t.Context(), "agent", faultLimits)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := reader.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: faultLimits, Acknowledged: true})
	if err != nil {
		t.Fatal(err)
	}
	c, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{s.socket}, DisableCache: true, ForceSingleClient: true, DialCtxFn: dialUnix,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const messages = 300
	accepted := make(chan string, messages)
	go func() {
		defer close(accepted)
		for i := range messages {
			name := fmt.Sprint(i)
			for {
				m, err := broker.NewMessage(name, []byte("null"), "key "+name)
				if err == nil {
					err = writer.Publish(t.Context(), a.Producer, m, faultLimits)
				}
				if err == nil {
					accepted <- name
					break
				}
				time.Sleep(5 * time.Millisecond) // and again, which the key allows
			}
			if i%100 == 50 {
				kill := c.B().Arbitrary("CLIENT", "KILL", "SKIPME", "yes").Build()
				if err := c.Do(t.Context(), kill).Error(); err != nil {
					t.Errorf("the connections are not cut: %v", err)
				}
			}
		}
	}()
	limit := time.After(30 * time.Second)
	for next := range accepted {
		for got := false; !got; {
			ms, _ := sub.Take(nil, 1)
			if len(ms) == 1 {
				if got = true; ms[0].StreamID() != next {
					t.Fatalf("the reader takes %q, want %q", ms[0].StreamID(), next)
				}
				sub.Settle(ms[0].ID())
				continue
			}
			select {
			case <-sub.Ready():
			case <-sub.Done():
				t.Fatalf("the subscription is over: %v", sub.Err())
			case <-limit:
				t.Fatalf("message %s does not come", next)
			}
		}
	}
}

// TestWithoutRedisReadsStayOpen: while Redis is stopped, writes fail or are of unknown outcome, and health is bad. Then all goes on.
func TestWithoutRedisReadsStayOpen(t *testing.T) {
	t.Parallel()
	needsRedis(t)
	dir := t.TempDir()
	s, err := startServer(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	o := s.options("test:")
	o.Timeout = 300 * time.Millisecond
	b := open(t, o)
	a, err := b.Create(t.Context(), "agent", faultLimits)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: faultLimits})
	if err != nil {
		t.Fatal(err)
	}
	s.pause(t)
	m, err := broker.NewMessage("lost", []byte("null"), "a key")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), a.Producer, m, faultLimits); !errors.Is(err, broker.ErrOutcomeUnknown) {
		t.Errorf("a write to a Redis that does not answer fails with %v", err)
	}
	eventually(t, "health is bad", func() bool { return b.Healthy() != nil })
	s.resume(t)
	eventually(t, "health is good", func() bool { return b.Healthy() == nil })
	eventually(t, "a write succeeds", func() bool { return b.Publish(t.Context(), a.Producer, m, faultLimits) == nil })
	takes(t, sub, "lost")
	publish(t, b, a.Producer, "next")
	takes(t, sub, "next")
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	holdsWithin(t, 20*time.Second, what, holds)
}

func holdsWithin(t *testing.T, patience time.Duration, what string, holds func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

// heartbeats are those of a node, as a test sees them from time to time.
type heartbeats struct {
	last    string
	seen    time.Time
	longest time.Duration // without one
}

// see takes what the nodes are now, with the times of their heartbeats.
func (h *heartbeats) see(nodes string) {
	if now := time.Now(); nodes != h.last {
		h.last, h.seen = nodes, now
	} else {
		h.longest = max(h.longest, now.Sub(h.seen))
	}
}

// watchHeartbeats watches those of the only node for some time. It fails if there is none for longer than a limit.
func watchHeartbeats(t *testing.T, c rueidis.Client, nodes string, lasts, limit time.Duration) {
	t.Helper()
	var h heartbeats
	for begun := time.Now(); time.Since(begun) < lasts; time.Sleep(50 * time.Millisecond) {
		beats, err := c.Do(t.Context(), c.B().Zrange().Key(nodes).Min("0").Max("-1").Withscores().Build()).AsZScores()
		if err != nil || len(beats) != 1 {
			t.Fatalf("there are %d nodes, %v", len(beats), err)
		}
		h.see(fmt.Sprint(beats))
	}
	h.within(t, limit)
}

func (h *heartbeats) within(t *testing.T, limit time.Duration) {
	t.Helper()
	if h.longest > limit {
		t.Errorf("there is no heartbeat for %v", h.longest)
	}
}

// TestANodeThatComesKeepsItsReaders: nodes that do not know it yet do not take it for gone.
func TestANodeThatComesKeepsItsReaders(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	o := s.options("test:" + rand.Text() + ":")
	writer := open(t, o)
	reader := open(t, o) // after the heartbeat of the other
	a, err := writer.Create(t.Context(), "agent", faultLimits)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := reader.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: faultLimits})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond) // the other node looks after its partitions meanwhile
	publish(t, writer, a.Producer, "1")
	takes(t, sub, "1")
}

// TestAResyncBringsNothingTwice: what the reader has taken and its node has not reported yet does not come again.
func TestAResyncBringsNothingTwice(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	b := open(t, s.options("test:"+rand.Text()+":"))
	l := faultLimits
	l.Buffer, l.InFlight = 1000, 1000
	a := create(t, b)
	sub, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	write := func(n int, name string) {
		ms, names := make([]*broker.Message, n), make([]string, n)
		for i := range ms {
			names[i] = fmt.Sprint(name, i)
			if ms[i], err = broker.NewMessage(names[i], []byte("null"), ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.PublishBatch(t.Context(), []string{a.Producer}, ms, l)[0].Err; err != nil {
			t.Fatal(err)
		}
		takes(t, sub, names...)
	}
	write(100, "reported ")
	reported(t, b, a.Consumer, 100)
	write(60, "not reported ")
	redis.Resync(sub)
	write(1, "last ")
	sub.Received(161)
	sub.End(broker.EndClean)
	if state, err := b.State(t.Context(), a.Consumer); err != nil || state.InFlight+state.Pending != 0 {
		t.Errorf("after the end of the read, the channel holds %d and %d messages: %v", state.InFlight, state.Pending, err)
	}
}
