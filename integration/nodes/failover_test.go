package nodes

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/history"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// lag is how far the replica is behind.
const lag = 300 * time.Millisecond

// newReplica starts a replica of a primary, behind a slow network, and waits until it has all data.
func newReplica(tb testing.TB, primary *store) *store {
	tb.Helper()
	link := newRelay(tb, "tcp", fmt.Sprintf("127.0.0.1:%d", primary.port)) // a sentinel does not find it behind a socket
	replica := newStore(tb, "--replicaof", strings.Replace(link.address, ":", " ", 1))
	for limit := time.Now().Add(patience); !strings.Contains(replica.try("INFO", "replication"), "master_link_status:up"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			tb.Fatal("the replica does not reach its primary")
		}
	}
	link.delay.Store(int64(lag))
	return replica
}

// newSentinel starts a sentinel for the primary, and returns its address.
func newSentinel(tb testing.TB, primary *store) string {
	tb.Helper()
	if _, err := exec.LookPath("redis-sentinel"); err != nil {
		tb.Skip("redis-sentinel is not installed: apt-get install redis-sentinel")
	}
	port, config := testserver.FreePort(tb), filepath.Join(tb.TempDir(), "sentinel.conf")
	text := fmt.Sprintf(`port %d
bind 127.0.0.1
sentinel monitor main 127.0.0.1 %d 1
sentinel down-after-milliseconds main 500
sentinel failover-timeout main 5000
`, port, primary.port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	sentinel := exec.Command("redis-sentinel", config) //nolint:noctx // lives as long as the test
	if err := sentinel.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = sentinel.Process.Kill()
		_ = sentinel.Wait()
	})
	ask := func() string {
		out, _ := exec.Command("redis-cli", "-p", fmt.Sprint(port), "SENTINEL", "replicas", "main").CombinedOutput() //nolint:noctx // short
		return string(out)
	}
	for limit := time.Now().Add(patience); !strings.Contains(ask(), "role-reported\nslave"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(limit) {
			tb.Fatalf("the sentinel knows no replica: %s", ask())
		}
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// TestFailoverLosesNothing kills the primary under load, and a sentinel promotes its replica, which is 300 ms behind. Since writes
// wait for the replica, none that was accepted is lost.
func TestFailoverLosesNothing(t *testing.T) {
	t.Parallel()
	primary := newStore(t)
	replica := newReplica(t, primary)
	sentinel := newSentinel(t, primary)
	c := newClusterAt(t, primary, 2, func() string { return sentinel },
		"read_duration 5s\nbuffer 5000\nin_flight 500", "sentinel main\ndurability replica 1\ntimeout 2s")
	r := history.NewRecorder()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	writing, done := context.WithCancel(ctx)
	defer done()
	any := func() string { return c.nodes[rand.IntN(len(c.nodes))].url() } //nolint:gosec // balances
	var readers, writers sync.WaitGroup
	for i := range 20 {
		b := newBatcher(c, r, any(), fmt.Sprint(i))
		b.keyed = i%2 == 0
		readers.Go(func() { b.read(ctx, any) })
		writers.Go(func() {
			const batch = 20
			for n := 0; writing.Err() == nil; {
				accepted := b.write(ctx, any(), n, batch)
				if accepted == batch || !b.keyed {
					n += batch
				}
				if accepted < batch {
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	before := func(accepted int) {
		for limit := time.Now().Add(patience); r.Accepted() < accepted; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("only %d messages are accepted, want %d", r.Accepted(), accepted)
			}
		}
	}
	before(2000)
	t.Logf("%v: before the failover", r.Now())
	r.Fault("the primary is killed", 5*time.Second, func() {
		primary.kill()
		for limit := time.Now().Add(patience); !strings.Contains(replica.try("INFO", "replication"), "role:master"); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatal("the sentinel does not promote the replica")
			}
		}
		newReplica(t, replica)
	})
	t.Logf("%v: there is a new primary with a replica", r.Now())
	before(r.Accepted() + 2000)
	t.Logf("%v: after it, %d messages are missing", r.Now(), r.Missing())
	done()
	writers.Wait()
	t.Logf("%v: done, %d messages are missing", r.Now(), r.Missing())
	settles(t, r, 4000)
	stop()
	readers.Wait()
}
