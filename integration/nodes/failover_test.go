package nodes

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/history"
)

// lag is how far the replica is behind.
const lag = 300 * time.Millisecond

// newReplica starts a replica of a primary, behind a slow network, and waits until it has all data.
func newReplica(tb testing.TB, primary *store) *store {
	tb.Helper()
	link := newRelay(tb, primary.socket)
	replica := newStore(tb, "--replicaof", strings.Replace(link.address, ":", " ", 1))
	for limit := time.Now().Add(patience); !strings.Contains(replica.try("INFO", "replication"), "master_link_status:up"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			tb.Fatal("the replica does not reach its primary")
		}
	}
	link.delay.Store(int64(lag))
	return replica
}

// TestFailoverLosesNothing kills the primary under load and promotes its replica, which is 300 ms behind. Since writes wait for
// the replica, none that was accepted is lost.
func TestFailoverLosesNothing(t *testing.T) {
	t.Parallel()
	r := failover(t, "durability replica 1")
	settles(t, r, 1000)
}

// TestFailoverLosesWhatTheReplicaLacks is the same without waiting for the replica. It shows that the other test would notice.
func TestFailoverLosesWhatTheReplicaLacks(t *testing.T) {
	t.Parallel()
	r := failover(t, "durability none")
	if found := strings.Join(r.History().Check(), "\n"); !strings.Contains(found, "accepted messages were not delivered") {
		t.Errorf("nothing is lost, so the replica was not behind; the checker finds: %s", found)
	}
}

// failover runs producers and consumers over a failover, and returns what they recorded.
func failover(t *testing.T, durability string) *history.Recorder {
	t.Helper()
	primary := newStore(t)
	replica := newReplica(t, primary)
	c := newCluster(t, primary, 2, "500ms", "read_duration 5s\nbuffer 5000\nin_flight 500", durability+"\ntimeout 2s")
	r := history.NewRecorder()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	writing, done := context.WithCancel(ctx)
	defer done()
	node := func() string { return c.nodes[rand.IntN(len(c.nodes))].url() }
	promoted := make(chan struct{})
	var readers, writers sync.WaitGroup
	var producers []*batcher
	for i := range 20 {
		producers = append(producers, newBatcher(c, r, node(), fmt.Sprint(i)))
	}
	primary.try("SET", "marker", "all channels are there")
	for limit := time.Now().Add(patience); replica.try("GET", "marker") == ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("the replica does not get the channels")
		}
	}
	for i, b := range producers {
		b.keyed = i%2 == 0
		readers.Go(func() {
			if i%4 < 2 {
				select { // until then Redis holds what is written
				case <-promoted:
				case <-ctx.Done():
				}
			}
			b.read(ctx, node)
		})
		writers.Go(func() { b.writeUntil(writing, node) })
	}
	accepted := func(count int) {
		t.Helper()
		for limit := time.Now().Add(patience); r.Accepted() < count; time.Sleep(time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("only %d messages are accepted, want %d", r.Accepted(), count)
			}
		}
	}
	accepted(r.Accepted() + 1000)
	r.Fault("the primary is killed", 5*time.Second, func() {
		primary.kill()
		replica.try("REPLICAOF", "NO", "ONE")
		newReplica(t, replica)
		for _, n := range c.nodes {
			n.link.redirect(replica.socket)
		}
	})
	close(promoted)
	accepted(r.Accepted() + 1000)
	done()
	writers.Wait()
	for limit := time.Now().Add(5 * time.Second); r.Missing() > 0 && time.Now().Before(limit); {
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	readers.Wait()
	return r
}

// writeUntil writes batches until ctx ends, each to the server that url names.
func (b *batcher) writeUntil(ctx context.Context, url func() string) {
	const batch = 20
	for n := 0; ctx.Err() == nil; {
		accepted := b.write(context.WithoutCancel(ctx), url(), n, batch)
		if accepted == batch || !b.keyed {
			n += batch
		}
		if accepted < batch {
			time.Sleep(20 * time.Millisecond)
		}
	}
}
