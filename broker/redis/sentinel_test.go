package redis_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/redis"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

func freePort(t *testing.T) string {
	t.Helper()
	return strconv.Itoa(testserver.FreePort(t))
}

// A replicated is a primary with a replica, which a sentinel watches.
type replicated struct {
	primary, replica *server
	link             *proxy // from the replica to the primary
	options          redis.Options
}

func startReplicated(t *testing.T) *replicated {
	t.Helper()
	needsRedis(t)
	if _, err := exec.LookPath("redis-sentinel"); err != nil {
		t.Skip("redis-sentinel is not installed: apt-get install redis-sentinel")
	}
	ports := []string{freePort(t), freePort(t), freePort(t)}
	r := &replicated{primary: ownServer(t, "--port", ports[0], "--bind", "127.0.0.1")}
	r.link = newProxy(t, "127.0.0.1:"+ports[0])
	host, port, _ := net.SplitHostPort(r.link.address)
	r.replica = ownServer(t, "--port", ports[1], "--bind", "127.0.0.1", "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
	c := r.replica.client(t)
	eventually(t, "the replica follows", func() bool {
		return strings.Contains(redisDo(t, c, "INFO", "replication"), "master_link_status:up")
	})
	config := filepath.Join(t.TempDir(), "sentinel.conf")
	// The sentinel would undo the proxy after the failover's timeout.
	lines := "port " + ports[2] + "\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 " + ports[0] + " 1\n" +
		"sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 60000\n"
	if err := os.WriteFile(config, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel := exec.Command("redis-sentinel", config)
	if err := sentinel.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sentinel.Process.Kill()
		_ = sentinel.Wait()
	})
	eventually(t, "the sentinel knows the replica", func() bool {
		out, _ := exec.CommandContext(t.Context(), "redis-cli", "-p", ports[2], "SENTINEL", "MASTER", "main").Output()
		return strings.Contains(string(out), "num-slaves\n1\n")
	})
	r.options = r.primary.options("test:")
	r.options.Addresses, r.options.SentinelMaster = []string{"127.0.0.1:" + ports[2]}, "main"
	r.options.Timeout = time.Second
	return r
}

// TestFailoverBySentinel: whether the primary dies or hangs, reads stay open, and all goes on with the replica.
func TestFailoverBySentinel(t *testing.T) {
	t.Parallel()
	needsRedis(t)
	for name, fault := range map[string]func(*testing.T, *server){
		"killed":  func(_ *testing.T, s *server) { s.stop() },
		"stopped": func(t *testing.T, s *server) { s.pause(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startReplicated(t)
			b, other := open(t, r.options), open(t, r.options)
			a := create(t, b)
			sub := subscribe(t, b, a.Consumer)
			publish(t, other, a.Producer, "1")
			takes(t, sub, "1")
			caughtUp(t, r)
			fault(t, r.primary)
			for name, node := range map[string]*redis.Broker{"2": b, "3": other} {
				eventually(t, "a write succeeds", func() bool { return tryPublish(t, node, a.Producer, name) == nil })
			}
			takesAll(t, sub, "2", "3")
			publish(t, other, a.Producer, "4")
			takes(t, sub, "4")
			eventually(t, "health is good", func() bool { return b.Healthy() == nil })
			if name == "stopped" { // it still takes itself for the primary
				r.primary.resume(t)
				publish(t, b, a.Producer, "5")
				takes(t, sub, "5")
			}
		})
	}
}

// caughtUp waits until the replica has all that the primary has.
func caughtUp(t *testing.T, r *replicated) {
	t.Helper()
	c := r.primary.client(t)
	if n := redisDo(t, c, "WAIT", "1", "10000"); n == "0" {
		t.Fatal("the replica does not follow")
	}
}

// takesAll waits until a reader has taken messages with these stream ids, in any order.
func takesAll(t *testing.T, sub broker.Subscription, want ...string) {
	t.Helper()
	missing := map[string]bool{}
	for _, name := range want {
		missing[name] = true
	}
	limit := time.After(20 * time.Second)
	for len(missing) > 0 {
		select {
		case <-sub.Ready():
		case <-sub.Done():
			t.Fatalf("the subscription is over: %v", sub.Err())
		case <-limit:
			t.Fatalf("messages do not come: %v", missing)
		}
		ms, _ := sub.Take(nil, 1<<20)
		for _, m := range ms {
			delete(missing, m.StreamID())
		}
	}
}

// TestFailoverToAReplicaThatIsBehind: with durability replica 1, no write that succeeded is lost, though the replica is always
// 300 ms behind. Without it, many are: that is what the setting is for.
func TestFailoverToAReplicaThatIsBehind(t *testing.T) {
	t.Parallel()
	r := startReplicated(t)
	r.link.change(func() { r.link.delay = 300 * time.Millisecond })
	plain := r.options
	r.options.Durability.Replicas, r.options.Timeout = 1, 3*time.Second
	durable, fast := open(t, r.options), open(t, plain)
	l := faultLimits
	l.Buffer = 1 << 20
	var mu sync.Mutex
	accepted := map[*redis.Broker]map[string]bool{durable: {}, fast: {}}
	addresses := map[*redis.Broker]broker.Addresses{durable: create(t, durable), fast: create(t, fast)}
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for b := range accepted {
		for i := range 50 {
			writers.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					name := fmt.Sprint(i, " ", n)
					m, err := broker.NewMessage(name, []byte("null"), "")
					if err == nil {
						err = b.Publish(ctx, addresses[b].Producer, m, l)
					}
					mu.Lock()
					if err == nil {
						accepted[b][name] = true
					}
					mu.Unlock()
					if err != nil {
						return
					}
					if b == fast {
						time.Sleep(5 * time.Millisecond)
					}
				}
			})
		}
	}
	eventually(t, "writes succeed", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(accepted[durable]) > 200
	})
	r.primary.stop()
	r.link.change(func() { r.link.cut = true })
	time.Sleep(100 * time.Millisecond)
	cancel()
	writers.Wait()
	lost := map[*redis.Broker]int{}
	for b, names := range accepted {
		var ms []*broker.Message
		eventually(t, "the replica takes over", func() bool {
			var err error
			ms, err = fast.Peek(t.Context(), addresses[b].Consumer, 1<<20)
			return err == nil
		})
		for _, m := range ms {
			delete(names, m.StreamID())
		}
		lost[b] = len(names)
	}
	t.Logf("lost with replica 1: %d, without: %d", lost[durable], lost[fast])
	if lost[durable] != 0 {
		t.Errorf("%d writes are lost that have succeeded", lost[durable])
	}
	if lost[fast] == 0 {
		t.Error("nothing is lost without durability either, so this test shows nothing")
	}
	if err := tryPublish(t, durable, addresses[durable].Producer, "later"); !errors.Is(err, broker.ErrOutcomeUnknown) && !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("without a replica, a write fails with %v", err)
	}
}
