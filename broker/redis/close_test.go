package redis_test

import (
	"errors"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// TestCloseDoesNotWaitForRedis: the process must exit, whatever Redis does.
func TestCloseDoesNotWaitForRedis(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	for _, calls := range []bool{false, true} {
		b := open(t, s.options("test:"))
		a := create(t, b)
		subscribe(t, b, a.Consumer)
		written := make(chan error, 1)
		s.pause(t)
		if calls {
			go func() { written <- tryPublish(t, b, a.Producer, "1") }()
			time.Sleep(50 * time.Millisecond)
		} else {
			written <- broker.ErrOutcomeUnknown
		}
		start := time.Now()
		b.Close()
		if took := time.Since(start); took > redis.DefaultTimeout/2 {
			t.Errorf("it takes %v", took)
		}
		if err := <-written; !errors.Is(err, broker.ErrOutcomeUnknown) {
			t.Errorf("a write that is on its way fails with %v", err)
		}
		s.resume(t)
	}
}

// TestCloseSettlesWhatWasReceived: what a plain reader has received before a restart is not sent again after it.
func TestCloseSettlesWhatWasReceived(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	o := s.options(t.Name())
	b, next := open(t, o), open(t, o)
	a, stuck := create(t, b), create(t, b)
	sub, silent := subscribe(t, b, a.Consumer), subscribe(t, b, stuck.Consumer)
	for _, channel := range []broker.Addresses{a, stuck} {
		publish(t, b, channel.Producer, "1")
		publish(t, b, channel.Producer, "2")
	}
	takes(t, sub, "1", "2")
	takes(t, silent, "1", "2") // and does not end
	go func() {
		<-sub.Done()
		sub.Received(1)
		sub.End(broker.EndClean)
	}()
	start := time.Now()
	b.Close()
	if took := time.Since(start); took > redis.DefaultTimeout/2 {
		t.Errorf("it takes %v", took)
	}
	takes(t, subscribe(t, next, a.Consumer), "2")
	takes(t, subscribe(t, next, stuck.Consumer), "1", "2")
}
