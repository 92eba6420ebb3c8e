package memory

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// topics are the topics of a Broker.
type topics struct {
	byName *xsync.Map[string, *topic]
	list   list[*topic]

	memberships, keptBytes atomic.Int64
	published              atomic.Uint64

	mu     sync.Mutex
	events []broker.TopicEvent
	report func([]broker.TopicEvent)
}

// A topic is one topic of a [Broker].
//
// A publish, and the end of the topic, walk over all members, one walk at a time. The walk has a number. It copies the members
// block by block, and then takes the lock of one channel after the other. A channel that joins during a walk has the walk's
// number, and the walk passes it over: it is a member from the next one on. So a walk needs no lock for longer than a moment.
//
// The lock mu guards what is below it. It may be taken with a channel's lock held, never the other way round.
type topic struct {
	broker *Broker
	name   string
	place  int           // in the list
	turn   chan struct{} // has a value while a walk is under way; other walks wait to send one

	connected atomic.Int64 // members that have a reader
	// expires is when the topic ceases to exist, on the Broker's clock. While it has members, or a walk is under way, it is the
	// constant never.
	expires atomic.Int64

	mu      sync.Mutex
	gone    bool   // it has ceased to exist
	walks   uint64 // the number of the last walk
	members members
	memory  topicMemory
	end     *broker.Message // how it was closed; nil if it was not
	// lastPublish is when the topic was last published to, closed or set, on the Broker's clock.
	lastPublish time.Duration
	topicJournal
}

// find returns the topic of a name, or nil if there is none.
func (b *Broker) findTopic(name string) *topic {
	t, _ := b.topics.byName.Load(name)
	if t == nil || t.expires.Load() <= int64(b.now()) {
		return nil
	}
	return t
}

// withTopic calls f with the topic of a name and its lock held. It makes the topic if there is none. If the topic has neither
// members nor a memory after that, it ceases to exist.
func (b *Broker) withTopic(name string, l *broker.Limits, f func(t *topic)) {
	for !b.ensureTopic(name, l).with(f) {
	}
}

func (b *Broker) ensureTopic(name string, l *broker.Limits) *topic {
	t, _ := b.topics.byName.LoadOrCompute(name, func() (*topic, bool) {
		t := &topic{broker: b, name: name, turn: make(chan struct{}, 1)}
		t.memory.keep, t.lastPublish = l.TopicKeep, b.now()
		t.expires.Store(never)
		if b.journal != nil {
			t.tag = b.journal.NextTag()
		}
		b.topics.list.add(t)
		return t, false
	})
	return t
}

// with calls f with the lock held. It returns false if the topic does not exist any more.
func (t *topic) with(f func(t *topic)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.gone && t.expires.Load() <= int64(t.broker.now()) {
		t.cease()
	}
	if t.gone {
		return false
	}
	f(t)
	t.settle()
	return true
}

// settle finds out when the topic ceases to exist. The lock is held.
func (t *topic) settle() {
	switch {
	case t.members.count > 0 || len(t.turn) > 0:
		t.expires.Store(never)
	case !t.memory.isSet && len(t.memory.kept) == 0 && (t.end == nil || t.memory.keep.Bytes <= 0):
		t.cease()
	default:
		expires := t.lastPublish + max(0, t.memory.keep.TTL)
		t.expires.Store(int64(expires))
		if expires <= t.broker.now() {
			t.cease()
		}
	}
}

// cease ends the topic. The lock is held.
func (t *topic) cease() {
	t.gone = true
	t.forgotten()
	t.forget(0)
	if t.memory.isSet {
		t.broker.budget.buffered.Add(-topicOverhead)
	}
	if t.end != nil {
		t.broker.budget.release(t.end)
	}
	t.broker.topics.byName.Delete(t.name)
	t.broker.topics.list.remove(t)
}

// sweepTopics ends the topics whose memory has lived its time. It locks only those.
func (b *Broker) sweepTopics() {
	now := int64(b.now())
	for t := range b.topics.list.all() {
		if t.expires.Load() <= now {
			t.with(func(*topic) {})
		}
	}
}

// add makes a channel a member. The lock is held, and the channel's.
func (t *topic) add(c *channel) membership {
	if t.members.count == 0 {
		t.broker.noteMembers(t.name, 1)
	}
	return t.enter(c)
}

// enter is add without a report. The locks are held, or nobody else has the two yet.
func (t *topic) enter(c *channel) membership {
	place := t.members.add(slot{c, t.walks})
	t.broker.topics.memberships.Add(1)
	return membership{topic: t, place: uint32(place), joined: uint32(t.walks)} //nolint:gosec // compared with its like
}

// remove ends a membership. The channel's lock is held.
func (t *topic) remove(m membership) {
	t.with(func(t *topic) {
		t.members.remove(int(m.place))
		if t.members.count == 0 {
			t.broker.noteMembers(t.name, 0)
		}
		t.broker.topics.memberships.Add(-1)
	})
}

// noteMembers notes that a topic has got its first member, or lost its last one.
func (b *Broker) noteMembers(topic string, members int) {
	b.topics.mu.Lock()
	defer b.topics.mu.Unlock()
	if b.topics.report != nil && !b.isClosed() {
		b.topics.events = append(b.topics.events, broker.TopicEvent{Topic: topic, Members: members})
		if len(b.topics.events) == 1 {
			b.reportSoon()
		}
	}
}

// OnTopics implements [broker.TopicSource]. The Broker's goroutine calls report.
func (b *Broker) OnTopics(report func([]broker.TopicEvent)) {
	b.topics.mu.Lock()
	defer b.topics.mu.Unlock()
	b.topics.report = report
}

// flush reports what has happened.
func (ts *topics) flush() {
	ts.mu.Lock()
	events, report := ts.events, ts.report
	ts.events = nil
	ts.mu.Unlock()
	for len(events) > 0 {
		batch := events[:min(len(events), maxDeletionBatch)]
		events = events[len(batch):]
		ts.call(report, batch)
	}
}

// call calls report. If that panics, the next batches are reported all the same.
func (*topics) call(report func([]broker.TopicEvent), batch []broker.TopicEvent) {
	defer guard.Recover(guard.Broker)
	report(batch)
}

// stats adds what there is to know of topics.
func (ts *topics) stats(s *broker.Stats) {
	s.Topics, s.Memberships = ts.byName.Size(), int(ts.memberships.Load())
	s.KeptBytes, s.Published = ts.keptBytes.Load(), ts.published.Load()
}
