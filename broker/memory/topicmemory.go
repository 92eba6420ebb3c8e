package memory

import (
	"slices"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// topicMemory is what a topic keeps for those who join later.
type topicMemory struct {
	keep  broker.Keep
	isSet bool   // by KeepTopic
	kept  []kept // oldest first
	bytes int64  // of kept

	keys  map[broker.EventID]struct{} // of the keyed ones; nil if there are none
	letGo *keyWindow                  // the keyed ones that were let go last
}

// kept is a message that a topic keeps.
type kept struct {
	*broker.Message

	batch *journal.Batch // where a journal has the message; nil without a journal
}

// topicOverhead is what a topic counts toward the memory for messages, in bytes, if KeepTopic has set its memory.
const topicOverhead = 512

// set sets the memory. If the journal fails, nothing happens. The lock of the topic is held.
func (t *topic) set(keep broker.Keep, isSet bool, lastPublish time.Duration) error {
	k := &t.memory
	keepBefore, setBefore, publishBefore := k.keep, k.isSet, t.lastPublish
	k.keep, k.isSet, t.lastPublish = keep, isSet, lastPublish
	if isSet || t.noted {
		if err := t.note(); err != nil {
			k.keep, k.isSet, t.lastPublish = keepBefore, setBefore, publishBefore
			return err
		}
	}
	if isSet && !setBefore {
		t.broker.budget.buffered.Add(topicOverhead)
	}
	t.forget(max(0, keep.Bytes))
	if t.lastLetGo != t.letGoCount {
		t.journalMove()
	}
	return nil
}

// applyDefault sets the memory by the limits of a call, if KeepTopic has not set it. If the journal fails, nothing happens. The
// lock of the topic is held.
func (t *topic) applyDefault(l *broker.Limits) error {
	if t.memory.isSet || t.memory.keep == l.TopicKeep {
		return nil
	}
	return t.set(l.TopicKeep, false, t.lastPublish)
}

// remember keeps a message that is published now, unless the topic has it, or has had it not long ago. If the journal fails,
// nothing happens. The lock is held.
func (t *topic) remember(m *broker.Message, l *broker.Limits, batch *journal.Batch) error {
	if t.keeps(m) {
		if err := t.keep(m, l, batch); err != nil {
			return err
		}
	}
	t.lastPublish = t.broker.now()
	if t.memory.isSet || t.memory.keep.Bytes > 0 {
		t.journalMove()
	}
	return nil
}

// keeps reports whether the topic would keep a message. The lock is held.
func (t *topic) keeps(m *broker.Message) bool {
	k := &t.memory
	if m.Size() > k.keep.Bytes {
		return false
	}
	_, has := k.keys[m.ID()]
	return !m.Keyed() || !has && !k.letGo.has(m.ID())
}

// keep keeps a message. The lock is held.
func (t *topic) keep(m *broker.Message, l *broker.Limits, batch *journal.Batch) error {
	if err := t.journalKeep(m, batch); err != nil {
		return err
	}
	k := &t.memory
	k.add(kept{m, batch})
	t.broker.topics.keptBytes.Add(m.Size())
	t.broker.budget.reserve(m)
	limit := k.keep.Bytes
	if over := t.broker.topics.keptBytes.Load() - l.MaxMemory/2; over > 0 {
		limit = min(limit, max(0, k.bytes-over))
	}
	t.forget(limit)
	return nil
}

// add adds a message behind the others.
func (k *topicMemory) add(m kept) {
	if m.Keyed() {
		if k.keys == nil {
			k.keys = map[broker.EventID]struct{}{}
		}
		k.keys[m.ID()] = struct{}{}
	}
	k.kept = append(k.kept, m)
	k.bytes += m.Size()
}

// forget lets go of the oldest kept messages until so many bytes are left. The lock is held.
func (t *topic) forget(limit int64) {
	k, n := &t.memory, 0
	for ; n < len(k.kept) && k.bytes > limit; n++ {
		m := k.kept[n].Message
		k.kept[n] = kept{}
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
		t.noteLetGo(m)
	}
	if k.kept = k.kept[n:]; len(k.kept) == 0 {
		k.kept, k.keys = nil, nil
	}
}

// last returns the newest kept messages, at most n, or all if n is [broker.LastAll]. The lock is held.
func (t *topic) last(n int) []kept {
	all := t.memory.kept
	if n == broker.LastAll || n > len(all) {
		n = len(all)
	}
	return slices.Clone(all[len(all)-n:])
}
