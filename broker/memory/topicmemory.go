package memory

import (
	"slices"

	"github.com/caddy-megaphone/megaphone/broker"
)

// topicMemory is what a topic keeps for those who join later.
type topicMemory struct {
	keep  broker.Keep
	isSet bool              // by KeepTopic
	kept  []*broker.Message // oldest first
	bytes int64             // of kept

	keys  map[broker.EventID]struct{} // of the keyed ones; nil if there are none
	letGo *keyWindow                  // the keyed ones that were let go last
}

// topicOverhead is what a topic counts toward the memory for messages, in bytes, if KeepTopic has set its memory.
const topicOverhead = 512

// applyDefault sets the memory by the limits of a call, if KeepTopic has not set it. The lock of the topic is held.
func (t *topic) applyDefault(l *broker.Limits) {
	if !t.memory.isSet && t.memory.keep != l.TopicKeep {
		t.memory.keep = l.TopicKeep
		t.forget(max(0, l.TopicKeep.Bytes))
	}
}

// remember keeps a message, unless the topic has it, or has had it not long ago. The lock is held.
func (t *topic) remember(m *broker.Message, l *broker.Limits) {
	k := &t.memory
	if m.Size() > k.keep.Bytes {
		return
	}
	if m.Keyed() {
		if _, has := k.keys[m.ID()]; has || k.letGo.has(m.ID()) {
			return
		}
		if k.keys == nil {
			k.keys = map[broker.EventID]struct{}{}
		}
		k.keys[m.ID()] = struct{}{}
	}
	k.kept = append(k.kept, m)
	k.bytes += m.Size()
	t.broker.topics.keptBytes.Add(m.Size())
	t.broker.budget.reserve(m)
	limit := k.keep.Bytes
	if over := t.broker.topics.keptBytes.Load() - l.MaxMemory/2; over > 0 {
		limit = min(limit, max(0, k.bytes-over))
	}
	t.forget(limit)
}

// forget lets go of the oldest kept messages until so many bytes are left. The lock is held.
func (t *topic) forget(limit int64) {
	k, n := &t.memory, 0
	for ; n < len(k.kept) && k.bytes > limit; n++ {
		m := k.kept[n]
		k.kept[n] = nil
		k.bytes -= m.Size()
		t.broker.topics.keptBytes.Add(-m.Size())
		t.broker.budget.release(m)
		if m.Keyed() {
			delete(k.keys, m.ID())
			if k.letGo == nil {
				k.letGo = new(keyWindow)
			}
			k.letGo.add(m.ID())
		}
	}
	if k.kept = k.kept[n:]; len(k.kept) == 0 {
		k.kept, k.keys = nil, nil
	}
}

// last returns the newest kept messages, at most n, or all if n is [broker.LastAll]. The lock is held.
func (t *topic) last(n int) []*broker.Message {
	kept := t.memory.kept
	if n == broker.LastAll || n > len(kept) {
		n = len(kept)
	}
	return slices.Clone(kept[len(kept)-n:])
}
