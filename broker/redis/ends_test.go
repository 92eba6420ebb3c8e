package redis_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// TestALateResyncChangesNothing: a reader has asked Redis where it is, twice, since the first reply did not come. The first request
// reaches Redis after the second one, as a connection that is slow to close may bring it.
func TestALateResyncChangesNothing(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	b := open(t, s.options("test:"+rand.Text()+":"))
	a := create(t, b)
	sub := subscribe(t, b, a.Consumer)
	late := redis.LateResync(sub)
	redis.Resync(sub)
	if err := late(); !errors.Is(err, broker.ErrBusy) {
		t.Errorf("the late request gets %v", err)
	}
	publish(t, b, a.Producer, "1")
	takes(t, sub, "1")
}

// TestAResyncDoesNotTakeTheChannelBack: a reader is taken over by another one of its node. Before it hears of that, Redis refuses what
// it reports, so it resyncs.
func TestAResyncDoesNotTakeTheChannelBack(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	b := open(t, s.options("test:"+rand.Text()+":"))
	a := create(t, b)
	before := subscribe(t, b, a.Consumer)
	after, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: faultLimits, TakeOver: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := redis.LateResync(before)(); !errors.Is(err, broker.ErrBusy) {
		t.Errorf("the resync of the reader before gets %v", err)
	}
	publish(t, b, a.Producer, "1")
	takes(t, after, "1")
}

// TestAFailoverSettlesOnlyWhatTheReaderHas: Redis goes back to a time before the last messages, and new ones take their positions,
// before the node knows of it. What the reader settles then is not what has those positions now.
func TestAFailoverSettlesOnlyWhatTheReaderHas(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	for _, ends := range []bool{false, true} {
		t.Run(fmt.Sprint("ends ", ends), func(t *testing.T) {
			prefix := fmt.Sprintf("test %v:", ends)
			b, c := open(t, s.options(prefix)), s.client(t)
			a := create(t, b)
			sub := subscribe(t, b, a.Consumer)
			write := func(names ...string) {
				for _, name := range names {
					publish(t, b, a.Producer, name)
				}
			}
			write("1")
			takes(t, sub, "1")
			reported(t, b, a.Consumer, 1)
			back := keep(t, c, redis.ChannelKeys(b, a.Producer))
			write("2", "3")
			takes(t, sub, "2", "3")
			reported(t, b, a.Consumer, 3)
			ms, err := b.Peek(t.Context(), a.Consumer, 3)
			if err != nil {
				t.Fatal(err)
			}
			back()
			write("4", "5")
			if ends {
				sub.Received(3)
				sub.End(broker.EndClean)
				takes(t, subscribe(t, b, a.Consumer), "1", "4", "5")
				return
			}
			sub.Settle(ms[2].ID())
			takes(t, sub, "1", "4", "5") // Redis does not know that the first one is settled
		})
	}
}

// keep remembers what some keys hold. The function that it returns puts that back.
func keep(t *testing.T, c rueidis.Client, keys []string) (back func()) {
	t.Helper()
	held := make([]string, len(keys))
	for i, key := range keys {
		held[i] = redisDo(t, c, "DUMP", key)
	}
	return func() {
		t.Helper()
		for i, key := range keys {
			redisDo(t, c, "RESTORE", key, "0", held[i], "REPLACE")
		}
	}
}

// TestReadsThatEndedBeforeARestartAreOver: Redis restarts from a snapshot, by which a channel has a reader that has left since. Its
// node lives. Without this, the channel would never expire.
func TestReadsThatEndedBeforeARestartAreOver(t *testing.T) {
	t.Parallel()
	s := ownServer(t, "--save", "3600 1")
	b := open(t, s.options("test:"))
	stays, ended := create(t, b), create(t, b)
	sub, over := subscribe(t, b, stays.Consumer), subscribe(t, b, ended.Consumer)
	s.command(t, "SAVE")
	over.End(broker.EndClean)
	s.stop()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	connected := func(a broker.Addresses) bool {
		state, err := b.State(t.Context(), a.Consumer)
		return err == nil && state.Connected
	}
	eventually(t, "the read that has ended is over", func() bool {
		state, err := b.State(t.Context(), ended.Consumer)
		return err == nil && !state.Connected
	})
	if !connected(stays) || sub.Err() != nil {
		t.Errorf("the other read has ended, too: %v", sub.Err())
	}
	publish(t, b, stays.Producer, "1")
	takes(t, sub, "1")
}

// TestAnEndThatCouldNotBeToldSettlesLater: the reader's node cannot tell Redis how a read has ended, and the client comes back by
// another node as soon as it can.
func TestAnEndThatCouldNotBeToldSettlesLater(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	p := newProxy(t, s.socket)
	b, other := open(t, through(s, p)), open(t, s.options("test:"))
	a, again := create(t, b), create(t, b)
	var subs []broker.Subscription
	for _, channel := range []broker.Addresses{a, again} {
		sub := subscribe(t, b, channel.Consumer)
		publish(t, b, channel.Producer, "1")
		publish(t, b, channel.Producer, "2")
		takes(t, sub, "1", "2")
		reported(t, b, channel.Consumer, 2)
		sub.Received(2)
		subs = append(subs, sub)
	}
	p.change(func() {
		for l := range p.links {
			if !l.pubsub {
				l.stops = true
			}
		}
	})
	for _, sub := range subs {
		sub.End(broker.EndClean)
	}
	publish(t, other, a.Producer, "3")
	publish(t, other, again.Producer, "3")
	p.change(func() {
		for l := range p.links {
			if l.stops {
				go l.close()
			}
		}
	})
	for channel, node := range map[broker.Addresses]*redis.Broker{a: other, again: b} {
		takes(t, awaitRead(t, "the client comes back", node, channel.Consumer), "3")
	}
}

// TestAFirstAcknowledgementIsNotForgotten: it is on its way to Redis while the reader resyncs, and the connection is lost with both.
func TestAFirstAcknowledgementIsNotForgotten(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	p := newProxy(t, s.socket)
	o := through(s, p)
	o.Timeout = 10 * time.Second
	b, c := open(t, o), s.client(t)
	a := create(t, b)
	sub := subscribe(t, b, a.Consumer)
	publish(t, b, a.Producer, "1")
	takes(t, sub, "1")
	reported(t, b, a.Consumer, 1)
	ms, err := b.Peek(t.Context(), a.Consumer, 1)
	if err != nil {
		t.Fatal(err)
	}
	var stalled []*link
	p.change(func() {
		for l := range p.links {
			if !l.pubsub {
				l.stops = true
				stalled = append(stalled, l)
			}
		}
	})
	sub.Settle(ms[0].ID())
	resyncs := b.StoreStats().Resyncs
	p.subscribed()[0].close()
	eventually(t, "the reader resyncs", func() bool { return b.StoreStats().Resyncs > resyncs })
	for _, l := range stalled {
		l.close()
	}
	const flags, acknowledges = 36, 4
	eventually(t, "Redis knows that the reader acknowledges", func() bool {
		return redisDo(t, c, "GET", redis.StateKey(b, a.Producer))[flags]&acknowledges != 0
	})
	eventually(t, "the message is settled", func() bool {
		state, err := b.State(t.Context(), a.Consumer)
		return err == nil && state.InFlight == 0
	})
}

// TestWhatIsSettledAsAReadEndsIsCounted: the read ends while Redis has not answered a report.
func TestWhatIsSettledAsAReadEndsIsCounted(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	p := newProxy(t, s.socket)
	o := s.options("test:" + rand.Text() + ":")
	writer := open(t, o)
	o.Addresses = []string{p.address}
	b := open(t, o)
	a := create(t, b)
	sub := subscribe(t, b, a.Consumer)
	for _, name := range []string{"1", "2", "3"} {
		publish(t, writer, a.Producer, name)
	}
	takes(t, sub, "1", "2", "3")
	reported(t, b, a.Consumer, 3)
	ms, err := writer.Peek(t.Context(), a.Consumer, 3)
	if err != nil {
		t.Fatal(err)
	}
	p.holdReplies(true)
	sub.Settle(ms[1].ID())
	eventually(t, "two are settled", func() bool {
		state, err := writer.State(t.Context(), a.Consumer)
		return err == nil && state.InFlight == 1
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		sub.Settle(ms[2].ID())
		sub.End(broker.EndClean)
	}()
	eventually(t, "the read ends", func() bool {
		state, err := writer.State(t.Context(), a.Consumer)
		return err == nil && !state.Connected
	})
	p.holdReplies(false)
	<-ended
	eventually(t, "three are counted", func() bool { return b.Stats().Settled == 3 })
}

// TestReadersThatCannotResyncHoldUpNoOthers: Redis refuses all calls for many channels, and for some it does not.
func TestReadersThatCannotResyncHoldUpNoOthers(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	b, writer, c := open(t, s.options("test:")), open(t, s.options("test:")), s.client(t)
	for range 300 {
		a := create(t, writer)
		subscribe(t, b, a.Consumer)
		redisDo(t, c, "SET", redis.StateKey(b, a.Producer), "no state")
	}
	channels, subs := make([]broker.Addresses, 20), make([]broker.Subscription, 20)
	for i := range channels {
		channels[i] = create(t, writer)
		subs[i] = subscribe(t, b, channels[i].Consumer)
	}
	redisDo(t, c, "CLIENT", "KILL", "TYPE", "pubsub")
	for i := range channels {
		publish(t, writer, channels[i].Producer, "1")
	}
	for _, sub := range subs {
		takes(t, sub, "1")
	}
}

// TestResyncsAtOnce: several faults at once make a reader ask Redis several times. With the race detector, this shows that each request
// has a fence of its own.
func TestResyncsAtOnce(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	b := open(t, s.options("test:"+rand.Text()+":"))
	a := create(t, b)
	sub := subscribe(t, b, a.Consumer)
	var resyncs sync.WaitGroup
	for range 4 {
		resyncs.Go(func() {
			for range 20 {
				redis.Resync(sub)
			}
		})
	}
	want := make([]string, 40)
	for i := range want {
		want[i] = fmt.Sprint(i)
		publish(t, b, a.Producer, want[i])
	}
	takes(t, sub, want...)
	resyncs.Wait()
	publish(t, b, a.Producer, "last")
	takes(t, sub, "last")
}
