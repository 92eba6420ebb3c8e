package redis_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// ownServer starts a server for one test.
func ownServer(t *testing.T, args ...string) *server {
	t.Helper()
	needsRedis(t)
	s, err := startServer(t.TempDir(), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

// through returns options for a server behind a proxy.
func through(s *server, p *proxy) redis.Options {
	o := s.options("test:")
	o.Addresses, o.Timeout = []string{p.address}, 500*time.Millisecond
	return o
}

func create(t *testing.T, b *redis.Broker) broker.Addresses {
	t.Helper()
	a, err := b.Create(t.Context(), "agent", faultLimits)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func subscribe(t *testing.T, b *redis.Broker, consumer string) broker.Subscription {
	t.Helper()
	sub, err := b.Subscribe(t.Context(), consumer, broker.SubscribeOptions{Limits: faultLimits})
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

// awaitRead subscribes, as soon as the channel can be read.
func awaitRead(t *testing.T, what string, b *redis.Broker, consumer string) (sub broker.Subscription) {
	t.Helper()
	eventually(t, what, func() (ok bool) {
		var err error
		sub, err = b.Subscribe(t.Context(), consumer, broker.SubscribeOptions{Limits: faultLimits})
		return err == nil
	})
	return sub
}

// reported waits until Redis knows that so many messages are in flight: until then, a report would show what was not pushed.
func reported(t *testing.T, b *redis.Broker, address string, inFlight int) {
	t.Helper()
	eventually(t, "what was taken is reported", func() bool {
		state, err := b.State(t.Context(), address)
		return err == nil && state.InFlight == inFlight
	})
}

// tryPublish writes a message with a key.
func tryPublish(t *testing.T, b *redis.Broker, producer, name string) error {
	t.Helper()
	m, err := broker.NewMessage(name, []byte("null"), "key "+name)
	if err != nil {
		t.Fatal(err)
	}
	return b.Publish(t.Context(), producer, m, faultLimits)
}

// TestPushesThatDoNotComeAreNoticed: the connection is open and the server well, but what is pushed on it gets lost. The
// heartbeats show that.
func TestPushesThatDoNotComeAreNoticed(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	p := newProxy(t, s.socket)
	b := open(t, through(s, p))
	a := create(t, b)
	sub := subscribe(t, b, a.Consumer)
	publish(t, b, a.Producer, "1")
	takes(t, sub, "1")
	reported(t, b, a.Consumer, 1)
	links := p.subscribed()
	if len(links) != 1 {
		t.Fatalf("%d connections have subscribed", len(links))
	}
	p.change(func() { links[0].loses = func(data string) bool { return strings.Contains(data, "smessage") } })
	publish(t, b, a.Producer, "2")
	publish(t, b, a.Producer, "3")
	takes(t, sub, "2", "3")
	if !links[0].isClosed() {
		t.Error("the old connection is kept")
	}
	publish(t, b, a.Producer, "4")
	takes(t, sub, "4")
	eventually(t, "health is good", func() bool { return b.Healthy() == nil })
}

// holdReplies makes a node get nothing from Redis but what is pushed on connections that are open now.
func (p *proxy) holdReplies(on bool) {
	p.change(func() {
		for l := range p.links {
			l.holds = on && !l.pubsub
		}
	})
}

// TestAPushIsLostWhileAReadBegins: Redis has let a reader in, and its node waits for that reply, while the connection for pushed
// messages is made again.
func TestAPushIsLostWhileAReadBegins(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	p := newProxy(t, s.socket)
	o := s.options("test:" + rand.Text() + ":")
	writer := open(t, o)
	o.Addresses = []string{p.address}
	var log testserver.Log
	o.Logger = log.Logger()
	reader := open(t, o)
	a := create(t, writer)
	subscribe(t, writer, create(t, writer).Consumer) // so Redis has the script
	p.holdReplies(true)
	subs := make(chan broker.Subscription, 1)
	go func() {
		sub, err := reader.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: faultLimits})
		if err != nil {
			t.Error(err)
		}
		subs <- sub
	}()
	eventually(t, "there is a reader", func() bool {
		state, err := writer.State(t.Context(), a.Consumer)
		return err == nil && state.Connected
	})
	p.subscribed0().close()
	publish(t, writer, a.Producer, "1")
	eventually(t, "the node resyncs", logged(&log, "pushes may have been lost"))
	p.holdReplies(false)
	if sub := <-subs; sub != nil {
		takes(t, sub, "1")
	}
}

// TestANoteBesideAReplyCounts: Redis tells a reader's node of a message that is too large to push, while the node waits for what
// Redis has said to a report before that message came.
func TestANoteBesideAReplyCounts(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	p := newProxy(t, s.socket)
	o := s.options("test:" + rand.Text() + ":")
	writer := open(t, o)
	o.Addresses = []string{p.address}
	reader := open(t, o)
	a := create(t, writer)
	sub := subscribe(t, reader, a.Consumer)
	publish(t, writer, a.Producer, "1")
	p.holdReplies(true)
	takes(t, sub, "1")
	reported(t, writer, a.Consumer, 1)
	m, err := broker.NewMessage("large", []byte(`"`+strings.Repeat("x", 16<<10)+`"`), "")
	if err == nil {
		err = writer.Publish(t.Context(), a.Producer, m, faultLimits)
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node knows of the message", func() bool { return redis.AsksForMore(sub) })
	p.holdReplies(false)
	takes(t, sub, "large")
}

// TestALostPushIsFetched: the next push shows the gap.
func TestALostPushIsFetched(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	p := newProxy(t, s.socket)
	b := open(t, through(s, p))
	a := create(t, b)
	sub := subscribe(t, b, a.Consumer)
	lost := make(chan bool, 1)
	p.change(func() {
		p.subscribed0().loses = func(data string) bool {
			if !strings.Contains(data, `"stream":`) && !strings.Contains(data, "null") {
				return false // a heartbeat
			}
			select {
			case lost <- true:
				return true
			default:
				return false
			}
		}
	})
	publish(t, b, a.Producer, "1")
	<-lost
	lost <- true
	publish(t, b, a.Producer, "2")
	start := time.Now()
	takes(t, sub, "1", "2")
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the message comes after %v, so by the heartbeats", took)
	}
}

// subscribed0 is the one connection that has subscribed. The lock is held.
func (p *proxy) subscribed0() *link {
	for l := range p.links {
		if l.pubsub {
			return l
		}
	}
	return nil
}

// TestAReaderThatRedisHasCutOffResyncs: the node takes its pushes too slowly, so Redis closes the connection.
func TestAReaderThatRedisHasCutOffResyncs(t *testing.T) {
	t.Parallel()
	s := ownServer(t, "--client-output-buffer-limit", "pubsub 32kb 16kb 1")
	p := newProxy(t, s.socket)
	o := through(s, p)
	o.Timeout = 3 * time.Second
	b, writer := open(t, o), open(t, s.options("test:"))
	a := create(t, b)
	sub := subscribe(t, b, a.Consumer)
	slow := p.subscribed()[0]
	p.change(func() { slow.stops = true })
	const messages = 90
	want := make([]string, messages)
	for i := range want {
		want[i] = fmt.Sprint(i)
		m, err := broker.NewMessage(want[i], []byte(`"`+strings.Repeat("x", 7000)+`"`), "")
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Publish(t.Context(), a.Producer, m, faultLimits); err != nil {
			t.Fatal(err)
		}
	}
	p.change(func() { slow.stops = false })
	takes(t, sub, want...)
	eventually(t, "Redis has closed the connection", slow.isClosed)
}

// TestWhatHappensDuringAResyncCounts: what a reader takes and settles while Redis is asked where the channel begins, and its end.
func TestWhatHappensDuringAResyncCounts(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	p := newProxy(t, s.socket)
	o := through(s, p)
	o.Timeout = 5 * time.Second
	b, other := open(t, o), open(t, s.options("test:"))
	a := create(t, b)
	sub := subscribe(t, b, a.Consumer)
	for _, name := range []string{"1", "2", "3"} {
		publish(t, b, a.Producer, name)
		takes(t, sub, name)
	}
	reported(t, b, a.Consumer, 3)
	// during runs f while a resync is on its way.
	during := func(f func()) {
		var stalled []*link
		p.change(func() {
			for l := range p.links {
				if !l.pubsub {
					l.stops = true
					stalled = append(stalled, l)
				}
			}
		})
		p.subscribed()[0].close()
		eventually(t, "the node listens again", func() bool { return len(p.subscribed()) == 1 })
		time.Sleep(100 * time.Millisecond) // so the resync begins
		f()
		p.change(func() {
			for _, l := range stalled {
				l.stops = false
			}
		})
	}
	ms, err := other.Peek(t.Context(), a.Consumer, 3)
	if err != nil {
		t.Fatal(err)
	}
	during(func() { sub.Settle(ms[1].ID()) })
	publish(t, other, a.Producer, "4")
	takes(t, sub, "4")
	eventually(t, "two are settled", func() bool {
		state, err := other.State(t.Context(), a.Consumer)
		return err == nil && state.InFlight == 2
	})
	if stats := other.Stats(); stats.BufferedBytes <= 0 || stats.InFlight != 2 {
		t.Errorf("%+v", stats)
	}
	ended := make(chan bool)
	during(func() {
		go func() {
			sub.Settle(ms[2].ID())
			sub.End(broker.EndClean)
			close(ended)
		}()
		time.Sleep(50 * time.Millisecond)
	})
	<-ended
	takes(t, subscribe(t, other, a.Consumer), "4")
}

// TestASubscribeWhoseReplyIsLostHoldsNoChannel: Redis has made the node the channel's reader, and the node does not know.
func TestASubscribeWhoseReplyIsLostHoldsNoChannel(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	p := newProxy(t, s.socket)
	b, other := open(t, through(s, p)), open(t, s.options("test:"))
	a := create(t, b)
	publish(t, b, a.Producer, "1")
	subscribe(t, other, create(t, other).Consumer) // so Redis has the script
	p.change(func() {
		for l := range p.links {
			if !l.pubsub {
				l.loses = func(string) bool { return true }
			}
		}
	})
	_, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: faultLimits})
	if !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("the error is %v", err)
	}
	takes(t, awaitRead(t, "another node reads", other, a.Consumer), "1")
}

// TestANodeWithoutRedisLosesItsReaders: it is cut off, another node serves its channels, and it comes back by itself.
func TestANodeWithoutRedisLosesItsReaders(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	for name, fault := range map[string]func(*proxy, bool){
		"cut":     func(p *proxy, on bool) { p.cut = on },
		"stalled": func(p *proxy, on bool) { p.stops = on },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, s.socket)
			o, direct := through(s, p), s.options(name)
			o.KeyPrefix = name
			b, other := open(t, o), open(t, direct)
			a, quiet := create(t, b), create(t, b)
			sub, stays := subscribe(t, b, a.Consumer), subscribe(t, b, quiet.Consumer)
			publish(t, b, a.Producer, "1")
			takes(t, sub, "1")
			p.change(func() { fault(p, true) })
			if err := tryPublish(t, b, a.Producer, "lost"); !errors.Is(err, broker.ErrOutcomeUnknown) && !errors.Is(err, broker.ErrUnavailable) {
				t.Errorf("a write fails with %v", err)
			}
			if _, err := b.State(t.Context(), a.Consumer); !errors.Is(err, broker.ErrUnavailable) {
				t.Errorf("a call fails with %v", err)
			}
			eventually(t, "health is bad", func() bool { return b.Healthy() != nil })
			next := awaitRead(t, "the other node reads", other, a.Consumer)
			takes(t, next, "1")
			publish(t, other, quiet.Producer, "2")
			if sub.Settle(broker.EventID{1}) || sub.Err() != nil {
				t.Errorf("the node knows too much: %v", sub.Err())
			}
			p.change(func() { fault(p, false) })
			eventually(t, "the old read ends", func() bool { return sub.Err() != nil })
			if !errors.Is(sub.Err(), broker.ErrTakenOver) {
				t.Errorf("it ends with %v", sub.Err())
			}
			takes(t, stays, "2")
			eventually(t, "health is good", func() bool { return b.Healthy() == nil })
		})
	}
}
