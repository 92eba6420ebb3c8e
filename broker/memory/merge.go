package memory

import (
	"sync"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// offer merges a message with the newest pending one, if it may be (protocol.md 2.13), or puts it into the queue behind that, if
// there is room. It reports whether it did. If the journal fails, nothing happens. The lock is held.
func (c *channel) offer(m *broker.Message, l *broker.Limits, batch *journal.Batch, j *join) (taken bool, err error) {
	switch merges := c.merges(m, l); {
	case !c.hasRoom(m, l):
		return false, nil
	case merges:
		err = c.merge(m, j)
	default:
		err = c.put(m, batch)
	}
	return err == nil, err
}

// hasRoom reports whether the channel may take a message. One that is merged needs no room in the buffer. The lock is held.
func (c *channel) hasRoom(m *broker.Message, l *broker.Limits) bool {
	return c.hasPlace(m, l) && c.broker.budget.hasRoom(l.MaxMemory)
}

// hasPlace is hasRoom without a look at the memory. The lock is held.
func (c *channel) hasPlace(m *broker.Message, l *broker.Limits) bool {
	return c.counted() < l.Buffer || c.merges(m, l)
}

// merges reports whether a message would be merged with the newest one of the queue. The lock is held.
func (c *channel) merges(m *broker.Message, l *broker.Limits) bool {
	return m.Merge() != broker.MergeNone && c.queue.pending() > 0 && !c.isAwaited() && !c.hasGap(m) &&
		m.CanMerge(c.queue.newest(), l.MaxMessage)
}

// hasGap reports whether a piece of a text may follow one that the channel does not have. The lock is held.
func (c *channel) hasGap(m *broker.Message) bool {
	return m.Merge() == broker.MergeAppend && c.marks() != nil && c.marks().gap
}

// isAwaited reports whether the reader has come in vain because the newest message was not durable. If that were merged, it
// would have to become durable again. So the reader would get nothing for as long as producers write faster than the disk. The
// lock is held.
func (c *channel) isAwaited() bool { return c.reader != nil && c.reader.awaits }

// merge merges a message with the newest one of the queue. If the journal fails, nothing happens. The lock is held.
func (c *channel) merge(m *broker.Message, j *join) error {
	older := c.queue.newest()
	merged := j.merge(m, older)
	if c.journaled != nil {
		if err := c.journalMerge(journal.Merge{Older: older, Newer: m, Whole: merged}); err != nil {
			return err
		}
	}
	c.broker.budget.reserve(merged)
	c.queue.setNewest(merged)
	c.noteMerged()
	c.broker.budget.release(older)
	if older.Keyed() {
		c.rememberKey(older.ID()) // see rememberMerged
	}
	c.counters.accepted.Add(1)
	c.counters.merged[m.Merge()-broker.MergeReplace].Add(1)
	if c.reader != nil && c.notDurable() == 0 {
		c.reader.wake()
	}
	return nil
}

// journalMerge tells the journal that a message was merged with the newest one of the queue. The lock is held.
func (c *channel) journalMerge(m journal.Merge) error {
	if m.Older.Keyed() { // before the merge, for it does no harm if that fails
		c.journalMerged([]broker.EventID{m.Older.ID()})
	}
	position := c.letGoCount + uint64(c.queue.len) //nolint:gosec // not negative
	commit, err := c.broker.journal.Merge(c, c.journalID(), position, m, c.unsynced > 0)
	if err != nil || commit == nil {
		return err
	}
	c.unsynced = max(c.unsynced, 1)
	c.lastCommit = commit
	if c.mergeCommit != commit {
		c.mergeCommit, c.mergedFrom = commit, position
	}
	return nil
}

// rememberMerged remembers keyed messages that have become a part of a later one. No cursor shows them, but their producers may
// repeat them. The lock is held.
func (c *channel) rememberMerged(ids []broker.EventID) {
	if len(ids) == 0 {
		return
	}
	ids = ids[max(0, len(ids)-broker.KeyWindow):]
	for _, id := range ids {
		c.rememberKey(id)
	}
	if c.journaled != nil {
		c.journalMerged(ids)
	}
}

// journalMerged tells the journal of keyed messages that become a part of a later one. The lock is held.
func (c *channel) journalMerged(ids []broker.EventID) {
	move := c.move()
	move.LetGoKeys = ids
	c.broker.journal.Move(c.journalID(), move)
}

// A join is a message that is written to several channels in one call, and what it has become in the last one of them where it
// was appended. If others hold the same, they share its memory. A nil join shares nothing.
type join struct {
	mu            sync.Mutex
	older, merged *broker.Message
}

// merge returns what m becomes if it is merged with an older message.
func (j *join) merge(m, older *broker.Message) *broker.Message {
	if j == nil {
		return m.MergeWith(older)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.older != older {
		j.older, j.merged = older, m.MergeWith(older)
	}
	return j.merged
}

// joins returns what a call needs that writes messages to so many channels.
func joins(channels int, ms []*broker.Message) []join {
	if channels < 2 {
		return nil
	}
	for _, m := range ms {
		if m.Merge() == broker.MergeAppend {
			return make([]join, len(ms))
		}
	}
	return nil
}

// join returns what appending the next message needs.
func (w *waiter) join() *join {
	if w.joins == nil {
		return nil
	}
	return &w.joins[w.accepted]
}
