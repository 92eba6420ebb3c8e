package redis_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// client returns a connection to a server, for the test itself.
func (s *server) client(t *testing.T) rueidis.Client {
	t.Helper()
	c, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{s.socket}, DisableCache: true, ForceSingleClient: true, DialCtxFn: dialUnix,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// redisDo runs one command.
func redisDo(t *testing.T, c rueidis.Client, command ...string) string {
	t.Helper()
	reply := c.Do(t.Context(), c.B().Arbitrary(command...).Build())
	if err := reply.Error(); err != nil && !rueidis.IsRedisNil(err) {
		t.Fatalf("%v: %v", command, err)
	}
	if n, err := reply.ToInt64(); err == nil {
		return fmt.Sprint(n)
	}
	text, _ := reply.ToString()
	return text
}

// TestWithoutMemoryReadersGoOn: a Redis that takes no more lets readers take what it has, which makes room.
func TestWithoutMemoryReadersGoOn(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	c := s.client(t)
	b := open(t, s.options("test:"))
	a := create(t, b)
	publish(t, b, a.Producer, "1")
	publish(t, b, a.Producer, "2")
	redisDo(t, c, "CONFIG", "SET", "maxmemory", "1")
	if err := tryPublish(t, b, a.Producer, "3"); !errors.Is(err, broker.ErrMemoryLimit) {
		t.Errorf("a write fails with %v", err)
	}
	if refused := b.Stats().RefusedMemory; refused != 1 {
		t.Errorf("%d messages are refused for lack of memory", refused)
	}
	if _, err := b.Create(t.Context(), "agent", faultLimits); !errors.Is(err, broker.ErrMemoryLimit) {
		t.Errorf("a new channel fails with %v", err)
	}
	sub := subscribe(t, b, a.Consumer)
	takes(t, sub, "1", "2")
	reported(t, b, a.Consumer, 2)
	ms, err := b.Peek(t.Context(), a.Consumer, 2)
	if err != nil || !sub.Settle(ms[1].ID()) {
		t.Errorf("nothing is settled: %v", err)
	}
	reported(t, b, a.Consumer, 0)
	time.Sleep(2500 * time.Millisecond) // so there is a heartbeat
	if err := b.Healthy(); err != nil {
		t.Errorf("health is bad: %v", err)
	}
	redisDo(t, c, "CONFIG", "SET", "maxmemory", "0")
	publish(t, b, a.Producer, "4")
	takes(t, sub, "4")
	redisDo(t, c, "CONFIG", "SET", "maxmemory", "1")
	if err := b.Delete(t.Context(), a.Consumer); err != nil {
		t.Errorf("a channel is not deleted: %v", err)
	}
}

// TestARedisThatRestartsEmptyHasNoChannels: clients get 404 and make new channels, on old nodes and new ones.
func TestARedisThatRestartsEmptyHasNoChannels(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	b := open(t, s.options("test:"))
	sub := subscribe(t, b, create(t, b).Consumer)
	_, held := hold(t, b)
	s.stop()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	// Redis cannot say whether the message got in, and was read, before it ended.
	if err := <-held; !errors.Is(err, broker.ErrOutcomeUnknown) {
		t.Errorf("the producer that waits gets %v", err)
	}
	select {
	case <-sub.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the read does not end")
	}
	if !errors.Is(sub.Err(), broker.ErrNotFound) {
		t.Errorf("the read ends with %v", sub.Err())
	}
	c := s.client(t)
	eventually(t, "the key of addresses is back", func() bool { return hasKeys(t, c) })
	other := open(t, s.options("test:"))
	a := create(t, b)
	publish(t, other, a.Producer, "2")
	takes(t, subscribe(t, b, a.Consumer), "2")
}

// TestACallThatRedisHasLostIsOfUnknownOutcome: a producer waits for room, and a failover takes Redis back to the time before.
func TestACallThatRedisHasLostIsOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	b, c := open(t, s.options("test:")), s.client(t)
	a, held := hold(t, b)
	names, err := c.Do(t.Context(), c.B().Keys().Pattern("test:{*}[wp]*").Build()).AsStrSlice()
	if err != nil || len(names) < 2 {
		t.Fatalf("keys %q: %v", names, err)
	}
	redisDo(t, c, append([]string{"DEL"}, names...)...)
	redisDo(t, c, "CLIENT", "KILL", "TYPE", "pubsub")
	if err := <-held; !errors.Is(err, broker.ErrOutcomeUnknown) {
		t.Errorf("the producer that waits gets %v", err)
	}
	if state, err := b.State(t.Context(), a.Consumer); err != nil || state.Pending != 1 {
		t.Errorf("the channel holds %+v: %v", state, err)
	}
}

// TestACallWhoseNoteIsLostHasSucceeded: a producer waits for room and gets it while nothing can be pushed to its node.
func TestACallWhoseNoteIsLostHasSucceeded(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	p := newProxy(t, s.socket)
	o := s.options("test:")
	o.Addresses = []string{p.address}
	b, other := open(t, o), open(t, s.options("test:"))
	a, held := hold(t, b)
	link := p.subscribed()[0]
	p.change(func() { link.loses = func(string) bool { return true } })
	takes(t, subscribe(t, other, a.Consumer), "1", "1")
	link.close()
	if err := <-held; err != nil {
		t.Errorf("the producer that waited gets %v", err)
	}
}

// hold makes a producer wait for room in a new channel, which holds one message.
func hold(t *testing.T, b *redis.Broker) (a broker.Addresses, held <-chan error) {
	t.Helper()
	a = create(t, b)
	l := faultLimits
	l.Buffer, l.Hold = 1, 10*time.Second
	m, err := broker.NewMessage("1", []byte("null"), "")
	if err == nil {
		err = b.Publish(t.Context(), a.Producer, m, l)
	}
	if err != nil {
		t.Fatal(err)
	}
	second, err := broker.NewMessage("1", []byte("null"), "")
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- b.Publish(t.Context(), a.Producer, second, l) }()
	eventually(t, "a producer waits", func() bool { return b.Stats().HeldProducers == 1 })
	return a, result
}

// hasKeys reports whether the key of addresses is there.
func hasKeys(t *testing.T, c rueidis.Client) bool {
	t.Helper()
	names, err := c.Do(t.Context(), c.B().Keys().Pattern("test:*keys").Build()).AsStrSlice()
	return err == nil && len(names) == 1
}

// TestASlowRedisFailsCallsInTime: nothing waits for longer than the timeout, and no more waits than there may.
func TestASlowRedisFailsCallsInTime(t *testing.T) {
	t.Parallel()
	s := ownServer(t, "--enable-debug-command", "yes")
	c := s.client(t)
	o := s.options("test:")
	o.Timeout = 300 * time.Millisecond
	b := open(t, o)
	a := create(t, b)
	sub := subscribe(t, b, a.Consumer)
	slept := make(chan error, 1)
	go func() { slept <- c.Do(t.Context(), c.B().Arbitrary("DEBUG", "SLEEP", "2").Build()).Error() }()
	time.Sleep(100 * time.Millisecond)
	const writes = 15_000
	errs := make(chan error, writes)
	start := time.Now()
	for range writes {
		go func() { errs <- tryPublish(t, b, a.Producer, "1") }()
	}
	counts := map[string]int{}
	for range writes {
		switch err := <-errs; {
		case errors.Is(err, broker.ErrUnavailable):
			counts["unavailable"]++
		case errors.Is(err, broker.ErrOutcomeUnknown):
			counts["unknown"]++
		case err == nil:
			counts["written"]++ // after the sleep
		default:
			t.Fatalf("a write fails with %v", err)
		}
	}
	if took := time.Since(start); counts["unavailable"] < 1000 || counts["unknown"] == 0 || took > 15*time.Second {
		t.Errorf("%v in %v", counts, took)
	}
	if err := <-slept; err != nil {
		t.Fatal(err)
	}
	eventually(t, "a write succeeds", func() bool { return tryPublish(t, b, a.Producer, "1") == nil })
	takes(t, sub, "1")
	eventually(t, "health is good", func() bool { return b.Healthy() == nil })
}

// TestADistantRedisIsGoodEnough: round trips take 100 ms.
func TestADistantRedisIsGoodEnough(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	p := newProxy(t, s.socket)
	p.delay = 50 * time.Millisecond
	o := through(s, p)
	o.Timeout = 2 * time.Second
	b := open(t, o)
	a := create(t, b)
	sub := subscribe(t, b, a.Consumer)
	for _, name := range []string{"1", "2", "3"} {
		publish(t, b, a.Producer, name)
		takes(t, sub, name)
	}
	if err := b.Healthy(); err != nil {
		t.Error(err)
	}
}
