package redis

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
)

// waiting is what this node knows of channels in which messages wait that nobody reads. Redis knows which these are, but only while a
// node wants to know: see lua/waiting.lua.
type waiting struct {
	source  atomic.Pointer[waitingSource]
	streams []stream // by scope

	// Of the goroutine work.
	watchers []string     // see learned
	missing  map[int]bool // scopes in which such channels may not be noted
	tidied   time.Time    // when this node has looked last for what nobody wants to know any more
}

// A waitingSource is what OnWaiting was given.
type waitingSource struct {
	after  func() time.Duration
	report func([]broker.Waiting)
}

// tidyInterval is how often a node looks for what nobody wants to know any more.
const tidyInterval = 30 * time.Second

// OnWaiting implements [broker.WaitingSource]. Each channel is reported by one node that wants to know, wherever its messages come
// from. If that node is killed while report runs, another one reports it again. OnWaiting waits for nothing, as OnDeletions.
func (b *Broker) OnWaiting(after func() time.Duration, report func([]broker.Waiting)) {
	b.waiting.source.Store(&waitingSource{after, report})
}

// waitingAfter returns how long messages have to wait until this node wants to know, or 0 if it does not.
func (b *Broker) waitingAfter() time.Duration {
	if s := b.waiting.source.Load(); s != nil {
		return max(0, s.after())
	}
	return 0
}

// What a node tells of itself after a tab. An earlier version has none.
const (
	tellsWaiting    = "\twaiting" // that it wants to know of channels in which messages wait
	tellsNotWaiting = "\t"
)

// tellsOfWaiting is that of this node.
func (b *Broker) tellsOfWaiting() string {
	if b.waitingAfter() > 0 {
		return tellsWaiting
	}
	return tellsNotWaiting
}

// noteWatchers takes what nodes tell of themselves.
func (b *Broker) noteWatchers(nodes, about []string) {
	var watchers, unaware []string
	for i, node := range nodes {
		if strings.HasSuffix(about[i], tellsWaiting) {
			watchers = append(watchers, node)
		} else if !strings.Contains(about[i], tellsNotWaiting) {
			unaware = append(unaware, node)
		}
	}
	slices.Sort(unaware)
	if !slices.Equal(unaware, b.heartbeat.unaware) {
		for scope := range b.keys.scopes {
			b.learned.miss(scope)
		}
	}
	b.heartbeat.unaware = unaware
	b.learned.change(func(l *learned) { l.watchers = watchers })
}

// notePlaces takes the addresses of the servers that have the scopes. While a slot moves, not everything is noted.
func (b *Broker) notePlaces(places []string) {
	before := b.heartbeat.places
	for scope, place := range places {
		if len(before) > 0 && before[scope] != place {
			b.learned.miss(scope)
		}
	}
	b.heartbeat.places = places
}

// A waitingLook is what a sweep looks for.
type waitingLook struct {
	owned [][]int       // the partitions of each scope that this node looks after
	looks bool          // for channels in which messages wait
	after time.Duration // that have waited for so long; 0 to look for what nobody wants to know any more
}

// lookForWaiting returns what the next sweep looks for. Nodes that want to know of channels in which messages wait look after all
// partitions. Of others each looks after those that would be its own otherwise, for it still deletes what has expired.
func (b *Broker) lookForWaiting() waitingLook {
	w := &b.waiting
	look := waitingLook{owned: make([][]int, len(b.keys.scopes)), after: b.waitingAfter()}
	nodes := b.nodes
	look.looks = look.after > 0
	switch {
	case look.looks:
		nodes = w.watchers
		if !slices.Contains(nodes, b.node) { // it has not told yet
			nodes = append(slices.Clone(nodes), b.node)
		}
	case time.Since(w.tidied) >= tidyInterval:
		look.looks, w.tidied = true, time.Now()
	}
	for p := range partitions {
		if b.isFirst(nodes, p) {
			scope := b.keys.scopeOf(p)
			look.owned[scope] = append(look.owned[scope], p)
		}
	}
	return look
}

// looked notes that a sweep has looked for channels that may not have been noted.
func (l *waitingLook) looked(b *Broker, scope int) {
	if l.after > 0 {
		delete(b.waiting.missing, scope)
	}
}

// reportingWaiting returns the takings of channels of some scopes in which messages wait.
func (b *Broker) reportingWaiting(scopes []int) []taking {
	s := b.waiting.source.Load()
	if s == nil {
		return nil
	}
	all := make([]taking, len(scopes))
	for i, scope := range scopes {
		all[i] = func() (int, error) { return b.reportWaiting(scope, s.report) }
	}
	return all
}

// reportWaiting reports some channels of a scope in which messages wait, and returns how many.
func (b *Broker) reportWaiting(scope int, report func([]broker.Waiting)) (int, error) {
	return b.take(b.keys.unread(scope), &b.waiting.streams[scope], func(entries []rueidis.XRangeEntry) {
		channels := make([]broker.Waiting, 0, len(entries))
		for _, entry := range entries {
			if w, ok := b.waitingOf(entry.FieldValues["w"]); ok {
				channels = append(channels, w)
			}
		}
		if len(channels) > 0 {
			reportTo(report, channels)
		}
	})
}

// waitingOf reads what lua/sweep.lua notes.
func (b *Broker) waitingOf(s string) (w broker.Waiting, ok bool) {
	const head = 16 + 3 + 5
	if len(s) < head {
		return w, false
	}
	x, _ := toChannelID(s[:16])
	w = broker.Waiting{Agent: s[head:], Messages: int(number(s[16:19])), Since: timeOf(number(s[19:head]))} //nolint:gosec // 3 bytes
	w.Secret = b.codec.Load().consumerSecret(x, w.Agent)
	return w, true
}
