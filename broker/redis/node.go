package redis

import (
	"context"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

const (
	// tick is how often a node looks after its partitions.
	tick = time.Second
	// flushTime is for how long deletions are reported that should be reported now.
	flushTime = 2 * time.Second
)

// work does what is to be done regularly, until the Broker closes. It may wait for a server that does not answer, so heartbeats do not
// wait for it.
func (b *Broker) work() {
	defer close(b.worked)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for !b.isClosed() {
		b.workOnce(ticker.C)
	}
}

// workOnce waits for something to do, and does it.
func (b *Broker) workOnce(due <-chan time.Time) {
	defer guard.Recover(guard.Broker)
	select {
	case <-b.closing:
	case <-b.freed:
		_ = b.refresh(b.background)
	case flushed := <-b.flushes:
		defer close(flushed)
		b.learn()
		b.announceAll(timeLimit(flushTime))
	case <-due:
		if b.refresh(b.background) == nil { // in a cluster, some servers may be down
			b.lookAfter()
		}
	}
}

// lookAfter does what this node has to do for its partitions. Each step has a tick.
func (b *Broker) lookAfter() {
	var found findings
	for _, step := range []func(over func() bool){
		b.reap,
		func(over func() bool) { found = b.sweep(over) },
		func(over func() bool) { b.lookAfterTopics(found.topics, over) },
		func(over func() bool) { b.report(found, over) },
		b.tellAgain,
	} {
		if b.isClosed() {
			return
		}
		b.learn()
		step(shortTime())
	}
}

// shortTime returns a function that reports whether a tick is over. Work of each kind that may take longer goes on in the next round,
// so that none holds up the others.
func shortTime() (over func() bool) { return timeLimit(tick) }

// timeLimit returns a function that reports whether some time has passed since.
func timeLimit(limit time.Duration) (over func() bool) {
	end := time.Now().Add(limit)
	return func() bool { return time.Now().After(end) }
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
