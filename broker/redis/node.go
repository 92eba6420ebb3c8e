package redis

import (
	"cmp"
	"context"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

const (
	// tick is how often a node looks after its partitions.
	tick = time.Second
	// beatInterval is how often a node tells that it lives, and checks that what is pushed to it comes.
	beatInterval = 2 * time.Second
	// nodeTimeout is how long a node that does not tell that it lives counts as alive.
	nodeTimeout = 10 * time.Second
)

// work does what is to be done regularly, until the Broker closes.
func (b *Broker) work() {
	defer close(b.worked)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	lastBeat := time.Now()
	for !b.isClosed() {
		b.workOnce(ticker.C, &lastBeat)
	}
}

// workOnce waits for something to do, and does it.
func (b *Broker) workOnce(due <-chan time.Time, lastBeat *time.Time) {
	defer guard.Recover(guard.Broker)
	select {
	case <-b.closing:
		return
	case <-b.freed:
		_ = b.refresh(b.background)
		return
	case flushed := <-b.flushes:
		defer close(flushed)
		if b.beatIfDue(lastBeat) {
			b.announceAll(timeLimit(beatInterval))
		}
		return
	case <-b.beatDue:
		*lastBeat = time.Time{}
	case <-due:
	}
	if !b.beatIfDue(lastBeat) {
		return
	}
	late := func() bool { return time.Since(*lastBeat) > 2*beatInterval }
	if late() || b.refresh(b.background) != nil {
		return
	}
	b.lookAfter(late)
}

// beatIfDue tells that this node lives, if that is due. It reports false if Redis cannot be reached. In a cluster, some servers may
// be down, and others are not.
func (b *Broker) beatIfDue(lastBeat *time.Time) bool {
	if time.Since(*lastBeat) < beatInterval {
		return true
	}
	*lastBeat = time.Now()
	err := b.beat(b.background)
	b.setHealth(nil, err)
	b.logCounts()
	return err == nil || b.options.Cluster
}

// lookAfter does what this node has to do for its partitions. Once the next heartbeat is late, it leaves the rest to the next round. So
// if Redis stops answering, one step waits for it, not each.
func (b *Broker) lookAfter(late func() bool) {
	over := shortTime()
	var found findings
	for _, step := range []func(){
		func() { b.reap(over) },
		func() { found = b.sweep(over) },
		func() { b.lookAfterTopics(found.topics, shortTime()) },
		func() { b.report(found, shortTime()) },
		func() { b.tellAgain(shortTime()) },
	} {
		if late() || b.isClosed() {
			return
		}
		step()
	}
}

// shortTime returns a function that reports whether a tick is over. Work of each kind that may take longer goes on in the next round,
// so that there is a heartbeat in between.
func shortTime() (over func() bool) { return timeLimit(tick) }

// timeLimit returns a function that reports whether some time has passed since.
func timeLimit(limit time.Duration) (over func() bool) {
	end := time.Now().Add(limit)
	return func() bool { return time.Now().After(end) }
}

// beat tells that this node lives, and learns which others do.
func (b *Broker) beat(ctx context.Context) error {
	followed := b.follow(ctx)
	heard := b.beatListeners(ctx)
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
	if !slices.Equal(nodes, b.nodes) {
		come, gone := []string{}, []string{}
		for _, node := range nodes {
			if !slices.Contains(b.nodes, node) {
				come = append(come, nodeID(node))
			}
		}
		for _, node := range b.nodes {
			if !slices.Contains(nodes, node) {
				gone = append(gone, nodeID(node))
				b.departed = append(b.departed, node)
			}
		}
		b.log.Info("redis: the nodes that share the channels have changed", "nodes", len(nodes), "come", come, "gone", gone)
		b.departed = slices.DeleteFunc(b.departed, func(node string) bool { return slices.Contains(nodes, node) })
		b.departed = b.departed[max(0, len(b.departed)-maxDeparted):]
		b.nodes = nodes
		b.reaped, b.reapAfter = [partitions]time.Time{}, time.Time{}
	}
	if !known && b.beaten {
		b.log.Warn("redis: this node did not reach Redis for too long and counted as gone: other nodes may have taken over its readers")
		b.codecDue = true
		b.resyncSoon(b.allScopes())
	}
	b.checkPrimary(ctx)
	b.beaten = true
	if b.codecDue {
		if err := b.loadCodec(ctx); err != nil {
			return err
		}
		b.codecDue = false
	}
	return cmp.Or(followed, heard)
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
			if id := info["master_replid"]; err == nil && info["role"] == "master" && b.histories[address] != id {
				b.histories[address] = id
				changed = append(changed, cmp.Or(address, b.where()))
			}
		})
	}
	all.Wait()
	if len(changed) == 0 || !b.beaten {
		return
	}
	b.log.Warn("redis: another server has become the primary, or it has restarted: what it lacks is lost", "address", changed)
	b.codecDue, b.tellDue = true, len(b.keys.scopes) > 1
	b.reaped = [partitions]time.Time{} // it may know of readers that have left since
	b.resyncSoon(b.allScopes())
}

// do runs one command.
func (b *Broker) do(ctx context.Context, c rueidis.Client, command rueidis.Completed) rueidis.RedisResult {
	ctx, cancel := context.WithTimeout(ctx, b.options.Timeout)
	defer cancel()
	begun := time.Now()
	reply := c.Do(ctx, command)
	b.store.called(begun, reply.Error())
	return reply
}

// doAll runs commands in one round trip.
func (b *Broker) doAll(commands []rueidis.Completed) []rueidis.RedisResult {
	if len(commands) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(b.background, b.options.Timeout)
	defer cancel()
	begun := time.Now()
	replies := b.client.DoMulti(ctx, commands...)
	b.store.calledAll(begun, replies)
	return replies
}

// owns reports whether this node looks after a partition. All nodes agree on who does, except for a moment after one has come
// or gone; then two may, which does no harm.
func (b *Broker) owns(partition int) bool { return b.isFirst(b.nodes, partition) }

// isFirst reports whether this node looks after a partition if only these nodes do.
func (b *Broker) isFirst(nodes []string, partition int) bool {
	best, owner := uint64(0), ""
	for _, node := range nodes {
		h := fnv.New64a()
		_, _ = h.Write([]byte{byte(partition)}) //nolint:gosec // one byte
		_, _ = h.Write([]byte(node))
		if sum := h.Sum64(); owner == "" || sum > best {
			best, owner = sum, node
		}
	}
	return owner == b.node
}

// maxDeparted is how many nodes are remembered that live no more.
const maxDeparted = 100

// maxReaped is how many channels one call checks.
const maxReaped = 200

const (
	// reapInterval is after how long a partition is looked at again although nothing has changed.
	reapInterval = 15 * time.Minute
	// unheardDelay is after how long that is so if a node that lives did not hear the question: it is connecting.
	unheardDelay = 3 * time.Second
)

// reap frees the channels whose readers are gone, with their nodes or without: otherwise nothing would ever expire them. When its time
// is over, it leaves the rest to the next round.
func (b *Broker) reap(over func() bool) {
	for scope, due := range b.dueToReap() {
		if over() {
			return
		}
		if err := b.reapScope(scope, due, over); err != nil {
			b.warn(&b.warnings.work, "redis: cannot free the channels of readers that are gone, trying again", "error", err)
		}
	}
}

// dueToReap returns the partitions of this node that are to be looked at, by scope: all after nodes or the primary have changed, and
// otherwise one at a time, after the interval.
func (b *Broker) dueToReap() map[int][]int {
	due := map[int][]int{}
	if time.Now().Before(b.reapAfter) {
		return due
	}
	again := -1
	for p, at := range b.reaped {
		switch {
		case !at.IsZero() && (again >= 0 || time.Since(at) < reapInterval), !b.owns(p):
			continue
		case !at.IsZero():
			again = p
		}
		due[b.keys.scopeOf(p)] = append(due[b.keys.scopeOf(p)], p)
	}
	return due
}

// reapScope does that for some partitions of a scope.
func (b *Broker) reapScope(scope int, due []int, over func() bool) error {
	live, departed := strings.Join(b.nodes, ""), strings.Join(b.departed, "")
	unheard := false
	for skip := int64(0); len(due) > 0; {
		keys := append(make([]string, 0, 1+len(due)), b.keys.counters(scope))
		for _, p := range due {
			keys = append(keys, b.keys.expiries(p))
		}
		values, err := b.run(b.background, reapScript, keys, b.keys.pushPrefix(scope), live, text(skip), text(maxReaped), departed).ToArray()
		if err != nil {
			return err
		}
		done := max(0, min(integer(values, 0), int64(len(due))))
		if unheard = unheard || integer(values, 2) == 0; unheard {
			b.reapAfter = time.Now().Add(unheardDelay)
		}
		for _, p := range due[:done] {
			if !unheard {
				b.reaped[p] = time.Now()
			}
		}
		if due, skip = due[done:], integer(values, 1); skip == 0 && over() {
			break // a partition is looked at as a whole
		}
	}
	return nil
}

func text(n int64) string { return strconv.FormatInt(n, 10) }
