package redis

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// announcers is the consumer group of the nodes that report deletions, and its only consumer: Redis would not forget those of nodes
// that are gone.
const announcers = "nodes"

const (
	// maxAnnounced is how many deletions are reported at once.
	maxAnnounced = 1000
	// announceTimeout is how long a node may take to report deletions. After that, another node reports them.
	announceTimeout = 30 * time.Second
)

// reports has the functions that deletions and topic events are reported to.
type reports struct {
	deletions atomic.Pointer[func([]broker.Deletion)]
	topics    atomic.Pointer[func([]broker.TopicEvent)]
	streams   []stream // by scope
}

// A stream is one that nodes take entries from, as this node knows it. Only the goroutine work uses it, and then Close.
type stream struct {
	grouped bool     // the consumer group exists
	done    []string // entries that were reported, and that Redis has not let go of yet
	unsure  bool     // Redis may have given this node entries that it did not get, or has not reported
	ordered bool     // entries are reported in order; it is rare that two nodes take them at the same time
}

// OnDeletions implements [broker.DeletionSource]. Each deletion is reported by one node, also if another has deleted the channel.
// If that node is killed while report runs, another one reports the deletion again. OnDeletions waits for nothing. So the function
// before may still be running, and gets the deletions that this node is taking from Redis at this moment.
func (b *Broker) OnDeletions(report func([]broker.Deletion)) { b.reports.deletions.Store(&report) }

// FlushDeletions implements [broker.DeletionSource]. What takes longer than some seconds to report, and what a Redis that does not
// answer has, is reported later.
func (b *Broker) FlushDeletions() {
	if b.isClosed() || !b.isStarted() {
		return
	}
	flushed, limit := make(chan struct{}), time.After(flushTime+b.options.Timeout)
	select {
	case b.flushes <- flushed:
	case <-limit:
		return
	case <-b.closing:
		return
	}
	select {
	case <-flushed:
	case <-limit:
	}
}

// announceAll reports the deletions of all scopes, until its time is over.
func (b *Broker) announceAll(over func() bool) {
	b.tellAllHomes(over)
	if over() {
		return
	}
	commands := make([]rueidis.Completed, len(b.keys.scopes))
	for scope := range commands {
		commands[scope] = b.client.B().Xlen().Key(b.keys.deletions(scope)).Build()
	}
	var scopes []int
	for scope, reply := range b.doAll(commands) {
		if n, err := reply.AsInt64(); err == nil && n > 0 {
			scopes = append(scopes, scope)
		}
	}
	b.takeEach(b.announcing(scopes), over)
}

// A taking takes some entries of a stream and reports them, and returns how many.
type taking func() (int, error)

// announcing returns the takings of deletions of some scopes that no node has reported yet.
func (b *Broker) announcing(scopes []int) []taking {
	all := make([]taking, len(scopes))
	for i, scope := range scopes {
		all[i] = func() (int, error) { return b.announceSome(scope) }
	}
	return all
}

// takeEach calls each taking, and again while it takes as much as it can, until the time is over.
func (b *Broker) takeEach(all []taking, over func() bool) {
	for _, at := range rand.Perm(len(all)) { //nolint:gosec // no secret: none should always come last
		for !over() {
			n, err := all[at]()
			if err != nil {
				b.warn(&b.warnings.work, "redis: cannot report what happened to channels, trying again", "error", err)
			}
			if n < maxAnnounced {
				break
			}
		}
	}
}

// announceSome reports some deletions of a scope, and returns how many.
func (b *Broker) announceSome(scope int) (int, error) {
	r := &b.reports
	reportDeletions, reportTopics := function(&r.deletions), function(&r.topics)
	if reportDeletions == nil && reportTopics == nil {
		return 0, nil
	}
	return b.take(b.keys.deletions(scope), &r.streams[scope], func(entries []rueidis.XRangeEntry) {
		deletions := make([]broker.Deletion, 0, len(entries))
		var events []broker.TopicEvent
		for _, entry := range entries {
			if t := entry.FieldValues["t"]; len(t) > 1 {
				events = append(events, broker.TopicEvent{Topic: t[1:], Members: int(t[0])})
			} else if d, ok := b.deletion(entry.FieldValues["d"]); ok {
				deletions = append(deletions, d)
			}
		}
		if len(deletions) > 0 {
			reportTo(reportDeletions, deletions)
		}
		if len(events) > 0 {
			reportTo(reportTopics, events)
		}
	})
}

// function returns the function that was set, or nil.
func function[T any](set *atomic.Pointer[func([]T)]) func([]T) {
	if f := set.Load(); f != nil {
		return *f
	}
	return nil
}

// take gives entries of a stream to report that no node has reported, lets go of them, and returns how many.
func (b *Broker) take(key string, s *stream, report func([]rueidis.XRangeEntry)) (int, error) {
	c := b.client
	if !s.grouped {
		err := b.do(b.background, c, c.B().XgroupCreate().Key(key).Group(announcers).Id("0").Mkstream().Build()).Error()
		if err != nil && !strings.Contains(err.Error(), "BUSYGROUP") {
			return 0, err
		}
		s.grouped = true
	}
	if err := b.letGo(key, s); err != nil {
		return 0, err
	}
	entries, err := b.read(key, s)
	if err != nil || len(entries) == 0 {
		return 0, err
	}
	report(entries)
	for _, entry := range entries {
		s.done = append(s.done, entry.ID)
	}
	return len(entries), b.letGo(key, s)
}

// read returns entries that no node has reported: first those that a node has got and not reported. If that is this node itself, for
// it did not get a reply, it does not wait until it would count as gone: the next entries must not come before them.
func (b *Broker) read(key string, s *stream) ([]rueidis.XRangeEntry, error) {
	c, unsure, idle := b.client, s.unsure, announceTimeout
	if unsure && s.ordered {
		idle = 0
	}
	s.unsure = true
	claimed, err := b.do(b.background, c, c.B().Xautoclaim().Key(key).Group(announcers).Consumer(announcers).
		MinIdleTime(strconv.FormatInt(ms(idle), 10)).Start("0").Count(maxAnnounced).Build()).ToArray()
	if err != nil {
		s.grouped = false // Redis may have lost it
		return nil, err
	}
	var old []rueidis.XRangeEntry
	if len(claimed) > 1 {
		old, _ = claimed[1].AsXRange()
	}
	if len(old) >= maxAnnounced { // there may be more of them
		s.unsure = unsure
		return old, nil
	}
	entries, err := b.do(b.background, c, c.B().Xreadgroup().Group(announcers, announcers).Count(maxAnnounced).
		Streams().Key(key).Id(">").Build()).AsXRead()
	if err != nil && !rueidis.IsRedisNil(err) {
		return nil, err
	}
	s.unsure = false
	return slices.Concat(old, entries[key]), nil
}

// letGo deletes the entries of a stream that were reported. If that fails, the next take does it first, so that none is reported twice.
func (b *Broker) letGo(key string, s *stream) error {
	if len(s.done) == 0 {
		return nil
	}
	c := b.client
	// In this order: what is deleted and not acknowledged is let go by the next node that claims it.
	if err := b.do(b.background, c, c.B().Xdel().Key(key).Id(s.done...).Build()).Error(); err != nil {
		return err
	}
	err := b.do(b.background, c, c.B().Xack().Key(key).Group(announcers).Id(s.done...).Build()).Error()
	if err == nil {
		s.done = nil
	}
	return err
}

// reportTo calls a function, if there is one. If that panics, what happened counts as reported, for it would panic again.
func reportTo[T any](f func([]T), happened []T) {
	defer guard.Recover(guard.Broker)
	if f != nil {
		f(happened)
	}
}

// deletion reads what lua/remove.lua notes.
func (b *Broker) deletion(s string) (d broker.Deletion, ok bool) {
	const head = 16 + 4 + 1
	if len(s) < head {
		return d, false
	}
	x, _ := toChannelID(s[:16])
	d = broker.Deletion{Agent: s[head:], Undelivered: int(number(s[16:20])), Reason: broker.EndReason(s[20])} //nolint:gosec // 4 bytes
	d.Secret = b.codec.Load().consumerSecret(x, d.Agent)
	return d, d.Reason >= 0 && d.Reason < broker.EndReasonCount
}
