package redis_test

import (
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// logged returns whether a text was logged.
func logged(log *testserver.Log, text string) func() bool {
	return func() bool { return strings.Contains(log.String(), text) }
}

// TestStaleConnectionForPushedMessages: it seems well, and nothing comes on it. The node finds out by its heartbeat, says that it
// is not healthy, connects again and gets what it has missed.
func TestStaleConnectionForPushedMessages(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	p := newProxy(t, s.socket)
	o := s.options("test:" + rand.Text() + ":")
	o.Addresses = []string{p.address}
	var log testserver.Log
	o.Logger = log.Logger()
	b := open(t, o)
	a, err := b.Create(t.Context(), "agent", faultLimits)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: faultLimits})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, b, a.Producer, "1")
	takes(t, sub, "1")
	p.change(func() {
		for l := range p.links {
			if l.pubsub {
				l.loses = func(string) bool { return true }
			}
		}
	})
	publish(t, b, a.Producer, "2")
	eventually(t, "health is bad", func() bool { return b.Healthy() != nil })
	if err := b.Healthy(); err != nil && !strings.Contains(err.Error(), "did not come") && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("health is %v", err)
	}
	takes(t, sub, "2")
	eventually(t, "health is good", func() bool { return b.Healthy() == nil })
	eventually(t, "the log has the end of the fault", logged(&log, "redis: connection is back"))
	eventually(t, "the log has the count", logged(&log, "and go on\" readers=1 producers=0"))
	if stats := b.StoreStats(); stats.Reconnects == 0 || stats.Resyncs == 0 {
		t.Errorf("statistics are %+v", stats)
	}
}

// TestStoreStats: what two nodes count, and that they know each other.
func TestStoreStats(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	o := s.options("test:" + rand.Text() + ":")
	var log testserver.Log
	o.Logger = log.Logger()
	one, two := open(t, o), open(t, o)
	a, err := one.Create(t.Context(), "agent", faultLimits)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := two.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: faultLimits}); err != nil {
		t.Fatal(err)
	}
	before := one.StoreStats()
	publish(t, one, a.Producer, "1")
	after := one.StoreStats()
	if after.RoundTrips <= before.RoundTrips || after.Failures != 0 || after.Queued != 0 ||
		after.Latency.Count != after.RoundTrips || after.Latency.Sum <= before.Latency.Sum {
		t.Errorf("after a write statistics are %+v", after)
	}
	host, _ := os.Hostname()
	eventually(t, "both nodes know both", func() bool {
		for _, b := range []broker.StoreStatser{one, two} {
			nodes, self, readers := b.StoreStats().Nodes, 0, 0
			for _, n := range nodes {
				if n.Self {
					self++
				}
				if n.Host != host || n.Process != os.Getpid() || time.Since(n.Seen).Abs() > time.Minute {
					t.Errorf("node %+v", n)
				}
				readers += n.Readers
			}
			if len(nodes) != 2 || self != 1 || readers != 1 {
				return false
			}
		}
		return true
	})
	two.Close()
	eventually(t, "the node that has left is not there", func() bool { return len(one.StoreStats().Nodes) == 1 })
	eventually(t, "the log has it", logged(&log, "gone=["))
	if kept, err := s.command(t, "HGETALL", o.KeyPrefix+"{cv}about").AsStrMap(); err != nil || len(kept) != 1 {
		t.Errorf("Redis keeps of the nodes %q, %v", kept, err)
	}
}
