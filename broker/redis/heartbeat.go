package redis

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

const (
	// beatInterval is how often a node tells that it lives, and checks that what is pushed to it comes.
	beatInterval = 2 * time.Second
	// nodeTimeout is how long a node that does not tell that it lives counts as alive.
	nodeTimeout = 10 * time.Second
)

// heartbeat is what the goroutine that tells that this node lives knows.
type heartbeat struct {
	due       chan struct{} // receives a value when the next one should come now
	nodes     []string      // that live
	departed  []string      // that have lived and live no more
	unaware   []string      // of a version that does not note channels in which messages wait
	places    []string      // of scopes: the addresses of their servers
	beaten    bool
	histories map[string]string // of the primaries, by address: the ids of their replication
	codecDue  bool              // Redis may have lost the key of addresses
	logged    struct{ fenced, lost uint64 }
	stopped   chan struct{} // closed when it beats no more
}

// learned is what the heartbeat has learned and tells the goroutine work. Its slices are never changed.
type learned struct {
	mu              sync.Mutex
	nodes, departed []string
	watchers        []string     // nodes that want to know of channels in which messages wait, as they have told
	reap            bool         // nodes or a primary have changed: all partitions are to be looked at
	tell            bool         // the homes of topics may have lost something
	missing         map[int]bool // scopes in which channels may not be noted in which messages wait
}

func (l *learned) change(f func(l *learned)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
}

// learn takes what the heartbeat has learned.
func (b *Broker) learn() {
	b.learned.change(func(l *learned) {
		b.waiting.watchers = l.watchers
		if l.reap {
			b.nodes, b.departed = l.nodes, l.departed
			b.reaped, b.reapAfter = [partitions]time.Time{}, time.Time{}
		}
		b.tellDue = b.tellDue || l.tell
		maps.Copy(b.waiting.missing, l.missing)
		l.reap, l.tell, l.missing = false, false, nil
	})
}

// miss notes that channels of a scope may not be noted in which messages wait.
func (l *learned) miss(scope int) {
	l.change(func(l *learned) {
		if l.missing == nil {
			l.missing = map[int]bool{}
		}
		l.missing[scope] = true
	})
}

// keepBeating tells regularly that this node lives, until the Broker closes.
func (b *Broker) keepBeating() {
	defer close(b.heartbeat.stopped)
	due := time.NewTimer(beatInterval)
	defer due.Stop()
	for !b.isClosed() {
		select {
		case <-b.closing:
			return
		case <-b.heartbeat.due:
		case <-due.C:
		}
		due.Reset(beatInterval) // it comes at once if this one takes longer
		b.beatOnce()
	}
}

func (b *Broker) beatOnce() {
	defer guard.Recover(guard.Broker)
	b.setHealth(nil, b.beat(b.background))
	b.logCounts()
}

// beat tells that this node lives, and learns which others do.
func (b *Broker) beat(ctx context.Context) error {
	followed := b.follow(ctx)
	var heard error
	var listeners sync.WaitGroup
	defer listeners.Wait() // after a panic, too
	listeners.Go(func() {
		defer guard.Recover(guard.Broker, func() { heard = errPanic })
		heard = b.beatListeners(ctx)
	})
	err := b.tellAlive(ctx)
	listeners.Wait()
	return cmp.Or(err, followed, heard)
}

// tellAlive tells that this node lives, and learns which others do, and whether another server has become the primary.
func (b *Broker) tellAlive(ctx context.Context) error {
	h := &b.heartbeat
	values, err := b.run(ctx, beatScript, []string{b.keys.nodes(), b.keys.aboutNodes()},
		"", b.node, text(ms(nodeTimeout)), b.about()).ToArray()
	if err != nil || len(values) < 3 {
		return b.failed(err, false)
	}
	nodes, err := b.noteNodes(values)
	if err != nil {
		return err
	}
	slices.Sort(nodes)
	known := integer(values, 1) == 1
	if !slices.Equal(nodes, h.nodes) {
		come, gone := []string{}, []string{}
		for _, node := range nodes {
			if !slices.Contains(h.nodes, node) {
				come = append(come, nodeID(node))
			}
		}
		for _, node := range h.nodes {
			if !slices.Contains(nodes, node) {
				gone = append(gone, nodeID(node))
				h.departed = append(h.departed, node)
			}
		}
		b.log.Info("redis: the nodes that share the channels have changed", "nodes", len(nodes), "come", come, "gone", gone)
		h.departed = slices.DeleteFunc(h.departed, func(node string) bool { return slices.Contains(nodes, node) })
		h.departed = h.departed[max(0, len(h.departed)-maxDeparted):]
		h.nodes = nodes
		b.learned.change(func(l *learned) { l.nodes, l.departed, l.reap = nodes, slices.Clone(h.departed), true })
	}
	if !known && h.beaten {
		b.log.Warn("redis: this node did not reach Redis for too long and counted as gone: other nodes may have taken over its readers")
		h.codecDue = true
		b.resyncSoon(b.allScopes())
	}
	b.checkPrimary(ctx)
	h.beaten = true
	if h.codecDue {
		if err := b.loadCodec(ctx); err != nil {
			return err
		}
		h.codecDue = false
	}
	return nil
}

// checkPrimary resyncs all readers if another server has become a primary, because that may lack the last moments. What a server
// that does not answer was before, it still is.
func (b *Broker) checkPrimary(ctx context.Context) {
	var mu sync.Mutex
	var changed []string
	var all sync.WaitGroup
	for address, c := range b.client.Nodes() {
		if !b.options.Cluster {
			address = "" // there is one primary, wherever it is
		}
		all.Go(func() {
			defer guard.Recover(guard.Broker)
			text, err := b.do(ctx, c, c.B().Info().Section("replication").Build()).ToString()
			info := parseInfo(text)
			mu.Lock()
			defer mu.Unlock()
			if id := info["master_replid"]; err == nil && info["role"] == "master" && b.heartbeat.histories[address] != id {
				b.heartbeat.histories[address] = id
				changed = append(changed, cmp.Or(address, b.where()))
			}
		})
	}
	all.Wait()
	if len(changed) == 0 || !b.heartbeat.beaten {
		return
	}
	b.log.Warn("redis: another server has become the primary, or it has restarted: what it lacks is lost", "address", changed)
	b.heartbeat.codecDue = true
	b.learned.change(func(l *learned) {
		l.tell = len(b.keys.scopes) > 1
		l.reap = true // it may know of readers that have left since
	})
	b.resyncSoon(b.allScopes())
}
