package nodes

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/history"
	"github.com/caddy-megaphone/megaphone/internal/workload"
)

// faults disturbs a cluster at random.
type faults struct {
	*cluster
	*history.Recorder

	// storing is held while Redis is disturbed, and while a node starts or reloads: a node without Redis refuses to start.
	storing sync.Mutex
}

// after is how long the effects of a fault go on: requests are on their way, nodes connect again and read again what they hold.
const after = 3 * time.Second

// between returns a time between two others.
func between(random *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(random.Int64N(int64(to-from)))
}

// restart brings a node back that has ended.
func (f *faults) restart(n *node) {
	f.storing.Lock()
	defer f.storing.Unlock()
	n.start()
}

// node does one thing to one of the nodes. It ends with the node well.
func (f *faults) node(random *rand.Rand) {
	i := random.IntN(len(f.nodes))
	n := f.nodes[i]
	fault := func(what string, run func()) {
		f.Fault(fmt.Sprintf("node %d: %s", i, what), after, run)
	}
	switch k := random.IntN(14); {
	case k < 4:
		fault("kill -9", func() {
			n.Kill()
			f.restart(n)
		})
	case k < 6:
		fault("SIGTERM", func() {
			n.Stop()
			f.restart(n)
		})
	case k < 8:
		fault("stopped for a moment", func() { n.stopFor(between(random, 50*time.Millisecond, 3*time.Second)) })
	case k < 9:
		fault("stopped until it counts as gone", func() { n.stopFor(between(random, 10*time.Second, 14*time.Second)) })
	case k < 11:
		fault("reload", func() {
			f.storing.Lock()
			defer f.storing.Unlock()
			if err := n.reload(); err != nil {
				f.Error(err)
			}
		})
	case k < 12:
		f.Fault("all nodes: one after the other restarts", after, func() {
			for _, n := range f.nodes {
				n.Stop()
				f.restart(n)
			}
		})
	default:
		fault("killed while it ends", func() {
			n.Signal(syscall.SIGTERM)
			select {
			case <-n.Done():
			case <-time.After(between(random, 0, 300*time.Millisecond)):
				n.Kill()
			}
			f.restart(n)
		})
	}
}

// stopFor stops the process for a time.
func (n *node) stopFor(d time.Duration) {
	n.Signal(syscall.SIGSTOP)
	time.Sleep(d)
	n.Signal(syscall.SIGCONT)
}

// redis does one thing to Redis, or to the network on the way to it.
func (f *faults) redis(random *rand.Rand) {
	f.storing.Lock()
	defer f.storing.Unlock()
	store, kinds := f.store, 6
	if store.all != nil {
		store, kinds = store.all[random.IntN(len(store.all))], 3
	}
	i := random.IntN(len(f.nodes))
	link := f.nodes[i].link
	switch random.IntN(kinds) {
	case 0:
		f.Fault("redis: stopped", after, func() {
			store.signal(syscall.SIGSTOP)
			time.Sleep(between(random, 50*time.Millisecond, 3*time.Second))
			store.signal(syscall.SIGCONT)
		})
	case 1:
		f.Fault("redis: connections killed", after, func() { store.try("CLIENT", "KILL", "TYPE", "normal") })
	case 2:
		f.Fault("redis: Pub/Sub connections killed", after, func() { store.try("CLIENT", "KILL", "TYPE", "pubsub") })
	case 3:
		f.Fault(fmt.Sprintf("link %d: cut", i), after, link.cut)
	case 4:
		f.Fault(fmt.Sprintf("link %d: held", i), after, func() { link.hold(between(random, 50*time.Millisecond, 3*time.Second)) })
	case 5:
		f.Fault(fmt.Sprintf("link %d: slow", i), after, func() {
			link.slow(between(random, 0, 300*time.Millisecond), func() { time.Sleep(between(random, 0, 2*time.Second)) })
		})
	}
}

// again does a thing again and again until ctx ends, with pauses.
func again(ctx context.Context, random *rand.Rand, f func(*rand.Rand)) {
	for {
		select {
		case <-time.After(between(random, 0, 2*time.Second)):
			f(random)
		case <-ctx.Done():
			return
		}
	}
}

// TestHistoryOverNodes runs producers and consumers of each kind against three nodes, each request to any of them, while nodes,
// Redis and the network between them fail at random. What the clients saw must fit together.
func TestHistoryOverNodes(t *testing.T) {
	t.Parallel()
	historyOverNodes(t, newStore(t), "in_flight 30", "", workload.Options{
		Channels: 60, Deleted: 12, Pause: 30 * time.Millisecond, Time: workload.Duration(t, 20*time.Second),
	})
}

// TestHistoryOfTopicsOverNodes does the same with topics. The window has room for all that a topic keeps: of a longer memory, a reader
// that breaks off may miss some (protocol.md 2.12).
func TestHistoryOfTopicsOverNodes(t *testing.T) {
	t.Parallel()
	historyOfTopics(t, newStore(t), "")
}

// TestHistoryOfTopicsOverARedisCluster does the same with a Redis Cluster: members of a topic are on all its servers.
func TestHistoryOfTopicsOverARedisCluster(t *testing.T) {
	t.Parallel()
	historyOfTopics(t, newRedisCluster(t), "\ncluster")
}

func historyOfTopics(t *testing.T, s *store, redis string) {
	t.Helper()
	historyOverNodes(t, s, "in_flight 100000\ntopic_keep 10MB", redis, workload.Options{
		Channels: 25, Topics: 7, Deleted: 3, FullDelete: true, Pause: 50 * time.Millisecond, Time: workload.Duration(t, 12*time.Second),
		Late: 5 * time.Second,
	})
}

// historyOverNodes runs clients against three nodes with some settings, and some of its Broker. The options say what is not the same
// in each test.
func historyOverNodes(t *testing.T, s *store, settings, redis string, o workload.Options) {
	t.Helper()
	c := newCluster(t, s, 3, "500ms", "read_duration 1s\nbuffer 20\nhold 2s\n"+settings, "timeout 1s\ndial_timeout 1s"+redis)
	o.Seed = workload.Seed(t)
	f := &faults{cluster: c, Recorder: history.NewRecorder()}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var disturbing sync.WaitGroup
	o.Created = func() { // not before, for a channel that nobody knows may be a member of topics
		time.AfterFunc(o.Time, cancel)
		for i, disturb := range []func(*rand.Rand){f.node, f.redis} {
			disturbing.Go(func() { again(ctx, rand.New(rand.NewPCG(o.Seed, uint64(i)+1<<32)), disturb) })
		}
	}
	o.Base = func() string { return c.nodes[rand.IntN(len(c.nodes))].url() }
	o.HTTP, o.Announced, o.Settle, o.TimeoutIsUnknown = c.http, &c.announcements, patience, true
	err := workload.Run(t.Context(), f.Recorder, o)
	disturbing.Wait()
	if err != nil {
		t.Fatal(err)
	}
	h := f.History()
	workload.Check(t, h, 100) // on a machine that is busy with other work
	if t.Failed() {
		for _, fault := range h.Faults {
			if strings.Contains(fault.Name, ":") { // the producers' own have none
				t.Logf("%v to %v: %s", fault.Start, fault.End-after, fault.Name)
			}
		}
	}
}
