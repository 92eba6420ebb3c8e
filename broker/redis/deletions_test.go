package redis_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// TestWhoReportsIsSetWhileRedisHangs: Redis answers no more while a node reports. To set the functions does not wait for it, so a reload
// does not, and a function may set the next one.
func TestWhoReportsIsSetWhileRedisHangs(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	b := open(t, s.options("test:"))
	hangs := make(chan struct{})
	var next, before atomic.Int32
	report := func(ds []broker.Deletion) { next.Add(int32(len(ds))) }
	b.OnDeletions(func([]broker.Deletion) {
		if before.Add(1) == 1 {
			s.pause(t)
			close(hangs)
		}
	})
	remove := func() {
		if err := b.Delete(t.Context(), create(t, b).Producer); err != nil {
			t.Error(err)
		}
	}
	remove()
	<-hangs
	begun := time.Now()
	b.OnDeletions(report)
	b.OnTopics(func([]broker.TopicEvent) {})
	b.OnWaiting(func() time.Duration { return 0 }, nil)
	took := time.Since(begun)
	s.resume(t)
	if took > time.Second {
		t.Errorf("to set the functions takes %v", took)
	}
	remove()
	eventually(t, "the next function is called", func() bool { return next.Load() == 1 })
	if n := before.Load(); n != 1 {
		t.Errorf("the function before is called %d times", n)
	}
	b.OnDeletions(func([]broker.Deletion) {
		b.OnDeletions(report)
	})
	remove()
	b.FlushDeletions()
	remove()
	eventually(t, "the function that was set by another is called", func() bool { return next.Load() == 2 })
}

// TestAReportThatRedisDoesNotHearOfIsMadeOnce: a node has reported a deletion, and for a moment cannot take it off.
func TestAReportThatRedisDoesNotHearOfIsMadeOnce(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	b := open(t, s.options("test:"))
	s.cli("ACL", "SETUSER", "default", "-xdel")
	var reported atomic.Int32
	b.OnDeletions(func([]broker.Deletion) { reported.Add(1) })
	if err := b.Delete(t.Context(), create(t, b).Producer); err != nil {
		t.Fatal(err)
	}
	b.FlushDeletions()
	const stream = "test:{cv}o"
	id, _, _ := strings.Cut(s.cli("XPENDING", stream, "nodes", "-", "+", "1"), "\n")
	s.cli("XCLAIM", stream, "nodes", "nodes", "0", id, "IDLE", "31000") // so a node that is killed would have been at it
	s.cli("ACL", "SETUSER", "default", "+xdel")
	eventually(t, "it is taken off", func() bool { return s.cli("XLEN", stream) == "0" })
	if n := reported.Load(); n != 1 {
		t.Errorf("it is reported %d times", n)
	}
}

// TestFlushDeletionsDoesNotWaitForAServerThatHangs: a server of a cluster has deletions of many partitions, and does not answer. A
// reload waits for the flush.
func TestFlushDeletionsDoesNotWaitForAServerThatHangs(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, 0)
	b := open(t, redis.Options{
		Addresses: c.addresses, Cluster: true, KeyPrefix: "test:", DialTimeout: time.Second, Timeout: time.Second,
	})
	for range 150 {
		if err := b.Delete(t.Context(), create(t, b).Producer); err != nil {
			t.Fatal(err)
		}
	}
	var hangs sync.Once
	b.OnDeletions(func([]broker.Deletion) {
		hangs.Do(func() { c.servers[primaries-1].pause(t) })
	})
	begun := time.Now()
	b.FlushDeletions()
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it takes %v", took)
	}
}

// TestTopicEventsKeepTheirOrderIfAReplyIsLost: Redis has given a node an event that the node did not get. It comes before the next one.
func TestTopicEventsKeepTheirOrderIfAReplyIsLost(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	p := newProxy(t, s.socket)
	var lost sync.Once
	p.edits = func(data string) string {
		if strings.Contains(data, "\x01news") { // the event that it has a member
			lost.Do(func() { p.change(func() { p.cut = true }) })
		}
		return data
	}
	direct, b := open(t, s.options("test:")), open(t, through(s, p)) // the other one reports nothing
	events := make(chan broker.TopicEvent, 10)
	b.OnTopics(func(some []broker.TopicEvent) {
		for _, e := range some {
			events <- e
		}
	})
	isCut := func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.cut
	}
	a := create(t, direct)
	if err := direct.Join(t.Context(), a.Producer, broker.Join{Topic: "news"}, topicLimits); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the reply is lost", func() bool { b.FlushDeletions(); return isCut() })
	if err := direct.Leave(t.Context(), a.Producer, "news"); err != nil {
		t.Fatal(err)
	}
	p.change(func() { p.cut = false })
	eventually(t, "both are reported", func() bool { b.FlushDeletions(); return len(events) == 2 })
	if first, second := <-events, <-events; first.Members != 1 || second.Members != 0 {
		t.Errorf("first the topic has %d members, and then %d", first.Members, second.Members)
	}
}
