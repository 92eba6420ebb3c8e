package redis_test

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// A watcher wants to know of channels in which messages wait.
type watcher struct {
	after atomic.Int64

	mu  sync.Mutex
	got map[string][]broker.Waiting
}

// watch makes a node want to know.
func watch(b *redis.Broker, after time.Duration) *watcher {
	w := &watcher{got: map[string][]broker.Waiting{}}
	w.after.Store(int64(after))
	b.OnWaiting(func() time.Duration { return time.Duration(w.after.Load()) }, func(batch []broker.Waiting) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, c := range batch {
			w.got[c.Consumer()] = append(w.got[c.Consumer()], c)
		}
	})
	return w
}

func (w *watcher) of(consumer string) []broker.Waiting {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.got[consumer])
}

// learns waits until a channel was reported, and returns the report.
func (w *watcher) learns(t *testing.T, consumer string) broker.Waiting {
	t.Helper()
	eventually(t, "a channel is reported in which messages wait", func() bool { return len(w.of(consumer)) > 0 })
	return w.of(consumer)[0]
}

// knows checks that these channels were reported, once each, and no others.
func (w *watcher) knows(t *testing.T, consumers ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for consumer, reports := range w.got {
		if len(reports) > 1 {
			t.Errorf("%s is reported %d times", consumer, len(reports))
		}
	}
	got := slices.Sorted(maps.Keys(w.got))
	if slices.Sort(consumers); !slices.Equal(got, consumers) {
		t.Errorf("%v are reported, want %v", got, consumers)
	}
}

// oldNode adds a node of a version that does not note where messages wait. It stays until it is removed.
func oldNode(t *testing.T, s *server, prefix string) (remove func()) {
	t.Helper()
	names, err := s.command(t, "KEYS", prefix+"*nodes").AsStrSlice()
	if err != nil || len(names) != 1 {
		t.Fatalf("the nodes are at %v: %v", names, err)
	}
	const node = "old node"
	s.command(t, "HSET", strings.TrimSuffix(names[0], "nodes")+"about", node, "1 0 host")
	s.command(t, "ZADD", names[0], "1000000000000", node)
	return func() { s.command(t, "ZREM", names[0], node) }
}

// TestOneOfTheNodesThatWantToKnowReports: whatever node a message comes from, and whichever nodes do not want to know or do not know
// how, each channel is reported once.
func TestOneOfTheNodesThatWantToKnowReports(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	o := s.options("test:")
	b, other, third := open(t, o), open(t, o), open(t, o)
	oldNode(t, s, "test:")
	w := watch(b, time.Second)
	second := watch(third, time.Second)
	watch(other, 0)
	var all []string
	for i := range 60 {
		a := create(t, b)
		publish(t, []*redis.Broker{b, other, third}[i%3], a.Producer, "1")
		all = append(all, a.Consumer)
	}
	for _, consumer := range all {
		eventually(t, "it is reported", func() bool { return len(w.of(consumer))+len(second.of(consumer)) > 0 })
	}
	time.Sleep(2 * time.Second) // another sweep
	for _, consumer := range all {
		if n := len(w.of(consumer)) + len(second.of(consumer)); n != 1 {
			t.Errorf("%s is reported %d times", consumer, n)
		}
	}
}

// TestWhatAReaderHadWaitsOnceItsNodeIsKilled: from the moment when the others free the channel, so that the client can come back.
func TestWhatAReaderHadWaitsOnceItsNodeIsKilled(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	o := s.options("test:")
	b := open(t, o)
	w := watch(b, time.Second)
	a := create(t, b)
	node := startNode(t, s, o.KeyPrefix, a.Consumer)
	publish(t, b, a.Producer, "1")
	node.shows(t, "1")
	eventually(t, "the node is known", func() bool { return len(b.StoreStats().Nodes) == 2 })
	time.Sleep(1100 * time.Millisecond) // so it has waited for long enough, but has a reader
	_ = node.process.Process.Kill()
	_ = node.process.Wait()
	killed := time.Now()
	names, err := s.command(t, "KEYS", "test:*nodes").AsStrSlice()
	if err != nil || len(names) != 1 {
		t.Fatalf("the nodes are at %v: %v", names, err)
	}
	s.command(t, "DEL", names[0]) // as after ten seconds
	if got := w.learns(t, a.Consumer); got.Messages != 1 || got.Since.Before(killed.Truncate(time.Millisecond)) {
		t.Errorf("%+v is reported, and the node was killed at %v", got, killed)
	}
	w.knows(t, a.Consumer)
}

// TestWhatOlderNodesDoNotNoteIsReported: a channel that an older node has left out is reported once that node is gone. What it has
// left in is not.
func TestWhatOlderNodesDoNotNoteIsReported(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	b := open(t, s.options("test:"))
	w := watch(b, time.Second)
	remove := oldNode(t, s, "test:")
	eventually(t, "the old node is known", func() bool { return len(b.StoreStats().Nodes) == 2 })
	told, out, read, empty := create(t, b), create(t, b), create(t, b), create(t, b)
	publish(t, b, told.Producer, "1")
	w.learns(t, told.Consumer)
	publish(t, b, out.Producer, "1")
	published := time.Now()
	set, member, _ := redis.WaitingKeys(b, out.Producer)
	s.command(t, "ZREM", set, member)
	publish(t, b, read.Producer, "1")
	subscribe(t, b, read.Consumer)
	gone, _, _ := redis.WaitingKeys(b, empty.Producer)
	s.command(t, "ZADD", gone, "1", "0123456789abcdef")
	for _, a := range []broker.Addresses{told, read, empty} {
		set, member, _ := redis.WaitingKeys(b, a.Producer)
		s.command(t, "ZADD", set, "1", member)
	}
	remove()
	if got := w.learns(t, out.Consumer); got.Messages != 1 || got.Since.Sub(published).Abs() > 500*time.Millisecond {
		t.Errorf("%+v is reported, and the message was published at %v", got, published)
	}
	for _, a := range []broker.Addresses{told, out, read, empty} {
		set, member, _ := redis.WaitingKeys(b, a.Producer)
		eventually(t, "nothing is left of it", func() bool {
			_, err := s.command(t, "ZSCORE", set, member).ToString()
			return err != nil
		})
	}
	w.knows(t, told.Consumer, out.Consumer)
}

// TestAReaderOfAnOlderNodeBeginsTheTimeAnew: that node has not noted that it left.
func TestAReaderOfAnOlderNodeBeginsTheTimeAnew(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	b := open(t, s.options("test:"))
	const after = 3 * time.Second
	w := watch(b, after)
	a := create(t, b)
	publish(t, b, a.Producer, "1")
	sub := subscribe(t, b, a.Consumer)
	before := time.Now()
	sub.End(broker.EndFault)
	set, member, _ := redis.WaitingKeys(b, a.Producer)
	s.command(t, "ZADD", set, "1", member)
	got := w.learns(t, a.Consumer)
	if waited := time.Since(before); waited < after || got.Since.Before(before.Truncate(time.Millisecond)) {
		t.Errorf("it is reported after %v as waiting since %v; the reader has left at %v", waited, got.Since, before)
	}
}

// TestOnlyChannelsThatWaitTakeMoreOfRedis: those with a reader and those that are gone do not. The time begins once.
func TestOnlyChannelsThatWaitTakeMoreOfRedis(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	b := open(t, s.options("test:"))
	watch(b, time.Minute)
	a := create(t, b)
	set, member, _ := redis.WaitingKeys(b, a.Producer)
	eventually(t, "nodes note where messages wait", func() bool { return s.exists(t, set) })
	since := func(waits bool) string {
		t.Helper()
		score, err := s.command(t, "ZSCORE", set, member).ToString()
		if (err == nil) != waits {
			t.Errorf("its score is %q: %v", score, err)
		}
		return score
	}
	since(false)
	publish(t, b, a.Producer, "1")
	publish(t, b, a.Producer, "2")
	since(true)
	sub := subscribe(t, b, a.Consumer)
	since(false)
	takes(t, sub, "1", "2")
	sub.End(broker.EndFault)
	left := since(true)
	time.Sleep(5 * time.Millisecond)
	publish(t, b, a.Producer, "3")
	if now := since(true); now != left {
		t.Errorf("with another message the time begins anew: %s, and before %s", now, left)
	}
	if err := b.Delete(t.Context(), a.Producer); err != nil {
		t.Fatal(err)
	}
	since(false)
}

func (s *server) exists(t *testing.T, key string) bool {
	t.Helper()
	n, err := s.command(t, "EXISTS", key).AsInt64()
	return err == nil && n == 1
}

// TestWhatNobodyWantsToKnowIsNotKept: while no node wants to know, Redis keeps nothing beside the channels. When one does again, the
// channels that were reported before are not.
func TestWhatNobodyWantsToKnowIsNotKept(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	o := s.options("test:")
	b := open(t, o)
	kept := func() (names []string) {
		for _, pattern := range []string{"test:{*}r", "test:{*}e"} {
			some, err := s.command(t, "KEYS", pattern).AsStrSlice()
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, some...)
		}
		return names
	}
	told, later := create(t, b), create(t, b)
	publish(t, b, told.Producer, "1")
	if names := kept(); len(names) > 0 {
		t.Errorf("nobody wants to know, and Redis keeps %v", names)
	}
	w := watch(b, time.Second)
	w.learns(t, told.Consumer)
	if names := kept(); len(names) < 2 {
		t.Errorf("somebody wants to know, and Redis keeps %v", names)
	}
	b.Close()
	for _, name := range kept() {
		if strings.HasSuffix(name, "r") {
			s.command(t, "ZADD", name, "1", "until") // as after a minute
		}
	}
	b = open(t, o)
	eventually(t, "nothing is kept any more", func() bool { return len(kept()) == 0 })
	publish(t, b, later.Producer, "1")
	if names := kept(); len(names) > 0 {
		t.Errorf("nobody wants to know any more, and Redis keeps %v", names)
	}
	w = watch(b, time.Second)
	w.learns(t, later.Consumer)
	w.knows(t, later.Consumer)
	subscribe(t, b, told.Consumer).End(broker.EndFault)
	w.learns(t, told.Consumer)
}

// TestChannelsThatWaitAlreadyAreManyAndOftenAlike: when somebody wants to know, more of them are found than one call looks at, some of
// which expire at the same time.
func TestChannelsThatWaitAlreadyAreManyAndOftenAlike(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	b := open(t, s.options("test:"))
	l := faultLimits
	l.Client, l.MaxChannelsPerClient = "client", 1000 // so they are all in one partition
	m, err := broker.NewMessage("1", []byte("null"), "")
	if err != nil {
		t.Fatal(err)
	}
	expiries := []string{"ZADD", "", "XX"}
	var all []string
	for range 900 {
		a, err := b.Create(t.Context(), "agent", l)
		if err == nil {
			err = b.Publish(t.Context(), a.Producer, m, l)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, a.Consumer)
		set, member, _ := redis.WaitingKeys(b, a.Producer)
		expiries[1] = strings.TrimSuffix(set, "r") + "x"
		if len(all) <= 500 {
			expiries = append(expiries, "1000000000000", member)
		}
	}
	s.command(t, expiries...)
	w := watch(b, time.Millisecond)
	for _, consumer := range all {
		w.learns(t, consumer)
	}
	w.knows(t, all...)
}

// TestARedisThatHasLostEverythingReportsWhatWaits: after it was restarted empty, new channels are reported.
func TestARedisThatHasLostEverythingReportsWhatWaits(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	b := open(t, s.options("test:"))
	w := watch(b, 100*time.Millisecond)
	a := create(t, b)
	publish(t, b, a.Producer, "1")
	w.learns(t, a.Consumer)
	s.command(t, "FLUSHALL")
	a = create(t, b)
	publish(t, b, a.Producer, "1")
	w.learns(t, a.Consumer)
}

// TestAReportThatANodeHasNotFinishedIsMade: by another node.
func TestAReportThatANodeHasNotFinishedIsMade(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	b := open(t, s.options("test:"))
	a := create(t, b)
	_, member, stream := redis.WaitingKeys(b, a.Producer)
	s.command(t, "XGROUP", "CREATE", stream, "nodes", "0", "MKSTREAM")
	s.command(t, "XADD", stream, "1-1", "w", member+"\x02\x00\x00\x01\x00\x00\x00\x00agent")
	s.command(t, "XREADGROUP", "GROUP", "nodes", "nodes", "STREAMS", stream, ">")
	w := watch(b, time.Minute)
	time.Sleep(1500 * time.Millisecond) // a sweep
	w.knows(t)                          // the other node may be at it
	s.command(t, "XCLAIM", stream, "nodes", "nodes", "0", "1-1", "IDLE", "31000")
	if got := w.learns(t, a.Consumer); got.Messages != 2 {
		t.Errorf("%+v is reported", got)
	}
}
