package redis_test

import (
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

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
	var log testserver.Log
	o.Logger = log.Logger()
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
	eventually(t, "all have asked", logged(&log, "and go on\" readers=1 producers=200"))
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
	producers := make([]string, 20_000)
	for i := range producers {
		producers[i] = a.Producer
	}
	begun = time.Now()
	for i, o := range b.PublishBatch(t.Context(), producers, []*broker.Message{topicMessage(t, "1", "")}, faultLimits) {
		if !errors.Is(o.Err, broker.ErrUnavailable) && !errors.Is(o.Err, broker.ErrOutcomeUnknown) {
			t.Fatalf("in channel %d, the outcome is %+v", i, o)
		}
	}
	if took := time.Since(begun); took > 3*time.Second { // part after part, it takes six seconds
		t.Errorf("a batch waits for %v", took)
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

// TestMuchToDeleteDelaysNoHeartbeat: thousands of channels expire at once, and Redis is far away. Other nodes must not take the node
// that deletes them for gone.
func TestMuchToDeleteDelaysNoHeartbeat(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	o := s.options("test:")
	direct := open(t, o)
	l := faultLimits
	const channels = 8000
	l.MaxChannels = channels
	var creating sync.WaitGroup
	for range 40 {
		creating.Go(func() {
			for range channels / 40 {
				if _, err := direct.Create(t.Context(), "agent", l); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	creating.Wait()
	direct.Close()
	p := newProxy(t, s.socket)
	o.Addresses = []string{p.address}
	b := open(t, o)
	c := s.client(t)
	p.change(func() { p.delay = 100 * time.Millisecond })
	expiries, err := c.Do(t.Context(), c.B().Keys().Pattern("test:{*}x").Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range expiries { // all of them now
		if len(key) <= len("test:{abc}x") { // no key of a channel
			redisDo(t, c, "ZUNIONSTORE", key, "1", key, "WEIGHTS", "0")
		}
	}
	watchHeartbeats(t, c, redis.NodesKey(b), 9*time.Second, 7*time.Second) // or else there is none until all is deleted
}

// TestALateHeartbeatIsNotALostOne: Redis does not answer for some seconds, and then all goes on, on the same connections. What is
// pushed comes a moment after the reply.
func TestALateHeartbeatIsNotALostOne(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	p := newProxy(t, s.socket)
	o := through(s, p)
	o.Timeout = 20 * time.Second
	b := open(t, o)
	a := create(t, b)
	sub := subscribe(t, b, a.Consumer)
	pushes := p.subscribed()[0]
	p.change(func() { p.stops, pushes.stops = true, true })
	time.Sleep(5500 * time.Millisecond)
	p.change(func() { p.stops = false })
	time.Sleep(500 * time.Millisecond)
	p.change(func() { pushes.stops = false })
	publish(t, b, a.Producer, "1")
	takes(t, sub, "1")
	if n := b.StoreStats().Reconnects; n > 0 || pushes.isClosed() {
		t.Errorf("the node has connected again %d times", n)
	}
}
