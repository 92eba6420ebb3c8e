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
		var next broker.Subscription
		eventually(t, "the client comes back", func() bool {
			var err error
			next, err = node.Subscribe(t.Context(), channel.Consumer, broker.SubscribeOptions{Limits: faultLimits})
			return err == nil
		})
		takes(t, next, "3")
	}
}

// TestManyThatWaitAreWithdrawnAtOnce: the time of calls in many channels is over, and Redis is far away.
func TestManyThatWaitAreWithdrawnAtOnce(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	p := newProxy(t, s.socket)
	o := s.options("test:")
	direct := open(t, o)
	o.Addresses = []string{p.address}
	b := open(t, o)
	l := faultLimits
	l.Buffer, l.Hold = 1, 500*time.Millisecond
	producers := make([]string, 150)
	for i := range producers {
		producers[i] = create(t, direct).Producer
	}
	m, err := broker.NewMessage("1", []byte("null"), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range direct.PublishBatch(t.Context(), producers, []*broker.Message{m}, l) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
	}
	p.change(func() { p.delay = 30 * time.Millisecond })
	begun := time.Now()
	for i, o := range b.PublishBatch(t.Context(), producers, []*broker.Message{m}, l) {
		if !errors.Is(o.Err, broker.ErrTimeout) || o.Accepted != 0 {
			t.Errorf("in channel %d, the outcome is %+v", i, o)
		}
	}
	if took := time.Since(begun); took > 4*time.Second { // one after the other, they take ten seconds
		t.Errorf("it takes %v", took)
	}
	if held := direct.Stats().HeldProducers; held != 0 {
		t.Errorf("%d calls still wait", held)
	}
}

// TestReadersDoNotWaitForProducersToResync: a node has many calls that wait for room, Redis is far away, and the connection for
// pushed messages is lost, with a message.
func TestReadersDoNotWaitForProducersToResync(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	p := newProxy(t, s.socket)
	o := s.options("test:")
	writer := open(t, o)
	o.Addresses = []string{p.address}
	var log logText
	o.Logger = log.logger()
	b := open(t, o)
	a, full := create(t, b), create(t, b)
	sub := subscribe(t, b, a.Consumer)
	l := faultLimits
	l.Buffer, l.Hold = 1, 20*time.Second
	publish(t, writer, full.Producer, "1")
	m, err := broker.NewMessage("1", []byte("null"), "")
	if err != nil {
		t.Fatal(err)
	}
	const waiting = 200
	held := make(chan error, waiting)
	for range waiting {
		go func() { held <- b.Publish(t.Context(), full.Producer, m, l) }()
	}
	eventually(t, "they wait", func() bool { return writer.Stats().HeldProducers == waiting })
	p.change(func() { p.delay = 30 * time.Millisecond })
	p.subscribed()[0].close()
	publish(t, writer, a.Producer, "1")
	begun := time.Now()
	takes(t, sub, "1")
	eventually(t, "all have asked", log.has("and go on\" readers=1 producers=200"))
	if took := time.Since(begun); took > 5*time.Second { // one after the other, they take twelve seconds
		t.Errorf("it takes %v", took)
	}
	if err := writer.Delete(t.Context(), full.Producer); err != nil {
		t.Fatal(err)
	}
	for range waiting {
		if err := <-held; !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("a call that waited gets %v", err)
		}
	}
}

// TestAPushBeyondTheNodesMemoryIsFetched: this node has too many messages that slow readers have not taken. A reader that has taken
// all it was given gets the next one all the same.
func TestAPushBeyondTheNodesMemoryIsFetched(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	b := open(t, s.options("test:"+rand.Text()+":"))
	a := create(t, b)
	sub := subscribe(t, b, a.Consumer)
	redis.FillAhead(b)
	publish(t, b, a.Producer, "1")
	takes(t, sub, "1")
}

// TestABatchToMoreChannelsThanMayQueue: a batch alone is never too much for Redis.
func TestABatchToMoreChannelsThanMayQueue(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	b := open(t, s.options("test:"+rand.Text()+":"))
	m, err := broker.NewMessage("1", []byte("null"), "")
	if err != nil {
		t.Fatal(err)
	}
	producers := make([]string, 12_000)
	for i := range producers {
		producers[i] = broker.FormatAddress("agent", broker.Secret{byte(i), byte(i >> 8)})
	}
	a := create(t, b)
	producers[len(producers)-1] = a.Producer
	outcomes := b.PublishBatch(t.Context(), producers, []*broker.Message{m}, faultLimits)
	for i, o := range outcomes[:len(outcomes)-1] {
		if !errors.Is(o.Err, broker.ErrNotFound) {
			t.Fatalf("in channel %d, the outcome is %+v", i, o)
		}
	}
	if o := outcomes[len(outcomes)-1]; o.Err != nil || o.Accepted != 1 {
		t.Errorf("in the channel that is there, the outcome is %+v", o)
	}
}

// TestWritesDoNotQueueForLong: Redis does not answer. No write waits much longer than its own call may take, however many there are.
func TestWritesDoNotQueueForLong(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	o := s.options("test:")
	o.Timeout, o.DialTimeout = 300*time.Millisecond, 300*time.Millisecond
	b := open(t, o)
	a := create(t, b)
	s.pause(t)
	t.Cleanup(func() { s.resume(t) })
	const writes = 6000
	errs := make(chan error, writes)
	begun := time.Now()
	for range writes {
		go func() { errs <- tryPublish(t, b, a.Producer, "1") }()
	}
	for range writes {
		if err := <-errs; !errors.Is(err, broker.ErrUnavailable) && !errors.Is(err, broker.ErrOutcomeUnknown) {
			t.Fatalf("a write fails with %v", err)
		}
	}
	if took := time.Since(begun); took > 4*time.Second { // call after call, they take nine seconds
		t.Errorf("the last one waits for %v", took)
	}
}

// TestNodesLeaveNoNames: each start of a node is another one, and Redis keeps nothing of those that are gone.
func TestNodesLeaveNoNames(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	o := s.options("test:" + rand.Text() + ":")
	for range 3 {
		b := open(t, o)
		reported := 0
		b.OnDeletions(func(ds []broker.Deletion) { reported += len(ds) })
		if err := b.Delete(t.Context(), create(t, b).Producer); err != nil {
			t.Fatal(err)
		}
		b.FlushDeletions()
		b.Close()
		if reported != 1 {
			t.Errorf("%d deletions are reported", reported)
		}
	}
	groups, err := s.command(t, "XINFO", "CONSUMERS", o.KeyPrefix+"{cv}o", "nodes").ToArray()
	if err != nil || len(groups) > 1 {
		t.Errorf("Redis knows %d nodes that report deletions, %v", len(groups), err)
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
