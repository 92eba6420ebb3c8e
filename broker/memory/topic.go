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
	idle   map[*topic]struct{} // those that have a memory, and no members
	events []broker.TopicEvent
	report func([]broker.TopicEvent)
}

func newTopics() topics {
	return topics{byName: xsync.NewMap[string, *topic](), idle: map[*topic]struct{}{}}
}

// A topic is one topic of a [Broker].
//
// A publish, and the end of the topic, walk over all members, one walk at a time. The walk has a number. It copies the members
// block by block, and then takes the lock of one channel after the other. A channel that joins during a walk has the walk's
// number, and the walk passes it over: it is a member from the next one on. So a walk needs no lock for longer than a moment.
//
// The lock mu guards what is below it. It may be taken with a channel's lock held, never the other way round.
type topic struct {
	name   string
	topics *topics
	place  int           // in the list
	turn   chan struct{} // has a value while a walk is under way

	connected atomic.Int64 // members that have a reader

	mu      sync.Mutex
	gone    bool   // the topic is in no directory any more
	walk    uint64 // the number of the last walk
	blocks  []block
	roomy   []int // blocks that may have an empty slot
	members int

	keep     broker.Keep
	keepSet  bool // by KeepTopic
	kept     []*broker.Message
	bytes    int64      // of kept
	keys     *keyWindow // of keyed messages that were kept
	end      *broker.Message
	lastUsed time.Duration // when something was published or set last, or the last member left, on the Broker's clock
}

// A block is a part of the members.
type block struct {
	slots []slot
	used  int
}

// A slot has a member, or nil.
type slot struct {
	channel *channel
	joined  uint64 // the number of the last walk when it joined
}

// blockSize is how many slots a block has. The first one grows until then, since most topics are small.
const blockSize = 256

// A membership is a channel's part of being a member. The channel's lock guards it.
type membership struct {
	topic  *topic
	place  uint32 // of the slot
	joined uint32 // as in the slot, but for its upper bits
}

// find returns the topic of a name, or nil if there is none.
func (ts *topics) find(name string) *topic {
	t, _ := ts.byName.Load(name)
	return t
}

// with calls f with the topic of a name and its lock held. It makes the topic if there is none. If the topic has neither members
// nor a memory then, it removes it.
func (b *Broker) withTopic(name string, l *broker.Limits, f func(t *topic)) {
	for {
		t, _ := b.topics.byName.LoadOrCompute(name, func() (*topic, bool) {
			t := &topic{name: name, topics: &b.topics, turn: make(chan struct{}, 1), keep: l.TopicKeep, lastUsed: b.now()}
			b.topics.list.add(t)
			return t, false
		})
		if b.tryTopic(t, f) {
			return
		}
	}
}

func (b *Broker) tryTopic(t *topic, f func(t *topic)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone {
		return false
	}
	f(t)
	t.settle(b.now())
	return true
}

// settle enters the topic among those that expire, or takes it out of them, or removes it. The lock is held.
func (t *topic) settle(now time.Duration) {
	remembers := t.keepSet || len(t.kept) > 0 || t.end != nil && t.keep.Bytes > 0
	walks := len(t.turn) > 0
	expired := !remembers || now-t.lastUsed >= t.keep.TTL
	t.topics.mu.Lock()
	defer t.topics.mu.Unlock()
	switch {
	case t.members > 0 || walks:
		delete(t.topics.idle, t)
	case !expired:
		t.topics.idle[t] = struct{}{}
	default:
		delete(t.topics.idle, t)
		t.gone = true
		t.topics.byName.Delete(t.name)
		t.topics.list.remove(t)
	}
}

// sweepTopics removes the topics whose memory has lived its time. It looks only at those without members.
func (b *Broker) sweepTopics() {
	b.topics.mu.Lock()
	idle := make([]*topic, 0, len(b.topics.idle))
	for t := range b.topics.idle {
		idle = append(idle, t)
	}
	b.topics.mu.Unlock()
	now := b.now()
	for _, t := range idle {
		b.tryTopic(t, func(t *topic) {
			if t.members == 0 && now-t.lastUsed >= t.keep.TTL {
				t.keepSet = false
				t.forget(b, 0)
				t.end = nil
			}
		})
	}
}

// forget lets go of the oldest kept messages until so many bytes are left. The lock is held.
func (t *topic) forget(b *Broker, limit int64) {
	n := 0
	for ; n < len(t.kept) && t.bytes > limit; n++ {
		m := t.kept[n]
		t.kept[n] = nil
		t.bytes -= m.Size()
		t.topics.keptBytes.Add(-m.Size())
		b.budget.release(m)
	}
	if t.kept = t.kept[n:]; len(t.kept) == 0 {
		t.kept = nil
	}
}

// remember keeps a message. All topics together keep at most half of the memory: beyond that, the topic keeps less. The lock is
// held.
func (t *topic) remember(b *Broker, m *broker.Message, l *broker.Limits) {
	if m.Keyed() && t.keep.Bytes > 0 {
		if t.keys.has(m.ID()) {
			return
		}
		if t.keys == nil {
			t.keys = new(keyWindow)
		}
		t.keys.add(m.ID())
	}
	if m.Size() > t.keep.Bytes {
		return
	}
	t.kept = append(t.kept, m)
	t.bytes += m.Size()
	t.topics.keptBytes.Add(m.Size())
	b.budget.reserve(m)
	limit := t.keep.Bytes
	if over := t.topics.keptBytes.Load() - l.MaxMemory/2; over > 0 {
		limit = min(limit, max(0, t.bytes-over))
	}
	t.forget(b, limit)
}

// last returns the newest kept messages, at most n, or all if n is [broker.LastAll]. The lock is held.
func (t *topic) last(n int) []*broker.Message {
	if n == broker.LastAll || n > len(t.kept) {
		n = len(t.kept)
	}
	return append([]*broker.Message(nil), t.kept[len(t.kept)-n:]...)
}

// add makes a channel a member. The lock is held, and the channel's.
func (t *topic) add(c *channel) membership {
	if len(t.roomy) == 0 {
		t.roomy = append(t.roomy, len(t.blocks))
		t.blocks = append(t.blocks, block{})
	}
	i := t.roomy[len(t.roomy)-1]
	b := &t.blocks[i]
	at := 0
	for at < len(b.slots) && b.slots[at].channel != nil {
		at++
	}
	if at == len(b.slots) {
		if len(t.blocks) > 1 && b.slots == nil {
			b.slots = make([]slot, 0, blockSize)
		}
		b.slots = append(b.slots, slot{})
	}
	b.slots[at] = slot{c, t.walk}
	if b.used++; b.used == blockSize {
		t.roomy = t.roomy[:len(t.roomy)-1]
	}
	if t.members++; t.members == 1 {
		t.topics.note(t.name, 1)
	}
	t.topics.memberships.Add(1)
	return membership{topic: t, place: uint32(i*blockSize + at), joined: uint32(t.walk)} //nolint:gosec // compared with its like
}

// remove ends a membership. The channel's lock is held.
func (t *topic) remove(b *Broker, m membership) {
	b.tryTopic(t, func(t *topic) {
		i := int(m.place / blockSize)
		full := &t.blocks[i]
		full.slots[m.place%blockSize] = slot{}
		if full.used--; full.used == blockSize-1 {
			t.roomy = append(t.roomy, i)
		}
		if full.used == 0 {
			full.slots = nil
		}
		if t.members--; t.members == 0 {
			t.topics.note(t.name, 0)
			t.lastUsed = b.now()
		}
		t.topics.memberships.Add(-1)
	})
}

// note notes that the topic has got its first member, or lost its last one.
func (ts *topics) note(name string, members int) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.report != nil {
		ts.events = append(ts.events, broker.TopicEvent{Topic: name, Members: members})
	}
}

// OnTopics implements [broker.TopicSource].
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
