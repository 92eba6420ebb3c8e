package redis

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/histogram"
)

// storeStats is what happened between this node and Redis.
type storeStats struct {
	roundTrips, failures                    atomic.Uint64
	latency                                 histogram.Histogram
	reconnects, resyncs, fenced, lostPushes atomic.Uint64

	nodes atomic.Pointer[[]broker.StoreNode]
}

// latencyBounds are the bounds of the histogram of calls.
var latencyBounds = []time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond,
	5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 3 * time.Second,
}

// called counts a call that has begun at a time.
func (s *storeStats) called(begun time.Time, err error) {
	s.roundTrips.Add(1)
	if err != nil && !rueidis.IsRedisNil(err) {
		s.failures.Add(1)
	}
	s.latency.Observe(latencyBounds, time.Since(begun), 1)
}

// calledAll counts a round trip of several calls.
func (s *storeStats) calledAll(begun time.Time, replies []rueidis.RedisResult) {
	var err error
	for _, reply := range replies {
		if err = reply.Error(); err != nil && !rueidis.IsRedisNil(err) {
			break
		}
	}
	s.called(begun, err)
}

// StoreStats implements [broker.StoreStatser].
func (b *Broker) StoreStats() broker.StoreStats {
	s := &b.store
	r := broker.StoreStats{
		RoundTrips: s.roundTrips.Load(), Failures: s.failures.Load(), Latency: histogram.Sum(latencyBounds, &s.latency),
		Reconnects: s.reconnects.Load(), Resyncs: s.resyncs.Load(), Fenced: s.fenced.Load(), LostPushes: s.lostPushes.Load(),
	}
	for _, l := range b.lanes {
		l.mu.Lock()
		r.Queued += len(l.queue)
		l.mu.Unlock()
	}
	if nodes := s.nodes.Load(); nodes != nil {
		r.Nodes = slices.Clone(*nodes)
	}
	return r
}

// RoundTrips returns how many calls this node has made.
func (b *Broker) RoundTrips() uint64 { return b.store.roundTrips.Load() }

// host is the name of this host, or empty.
var host, _ = os.Hostname()

// about is what this node tells the others of itself.
func (b *Broker) about() string {
	return fmt.Sprintf("%d %d %s", os.Getpid(), b.subs.count(), host) + b.tellsOfWaiting()
}

// noteNodes keeps what lua/beat.lua returns of the nodes, and returns their names.
func (b *Broker) noteNodes(values []rueidis.RedisMessage) ([]string, error) {
	names, err := values[2].AsStrSlice()
	if err != nil || len(values) < 5 {
		return nil, errData
	}
	seen, _ := values[3].ToArray()
	about, _ := values[4].ToArray()
	nodes, told := make([]broker.StoreNode, len(names)), make([]string, len(names))
	for i, name := range names {
		n := broker.StoreNode{ID: nodeID(name), Self: name == b.node, Seen: timeOf(uint64(max(0, integer(seen, i))))}
		if i < len(about) {
			told[i], _ = about[i].ToString() // empty for a node of an older version
			text, _, _ := strings.Cut(told[i], tellsNotWaiting)
			if words := strings.SplitN(text, " ", 3); len(words) == 3 {
				n.Process, _ = strconv.Atoi(words[0])
				n.Readers, _ = strconv.Atoi(words[1])
				n.Host = words[2]
			}
		}
		nodes[i] = n
	}
	slices.SortFunc(nodes, func(a, b broker.StoreNode) int {
		return strings.Compare(a.Host+" "+a.ID, b.Host+" "+b.ID)
	})
	b.store.nodes.Store(&nodes)
	b.noteWatchers(names, told)
	return names, nil
}

// nodeID returns a node's name as logs have it.
func nodeID(node string) string { return strconv.FormatUint(number(node), 36) }

var _ broker.StoreStatser = (*Broker)(nil)
