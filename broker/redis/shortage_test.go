package redis_test

import (
	"errors"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
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
