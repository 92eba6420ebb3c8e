package memory

import (
	"cmp"
	"context"
	"iter"
	"slices"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// topicJournal is what a topic has for a journal. The lock of the topic guards all but the tag, which never changes.
//
// The kept message at an index has the position letGoCount + index + 1.
type topicJournal struct {
	tag        uint32
	noted      bool   // the journal was told of the topic
	letGoCount uint64 // messages that were kept and let go
	newKeys    int    // how many of them had keys, since the journal was last told
	letGoID    broker.EventID
	lastLetGo  uint64 // letGoCount when the journal was last told
}

func (t *topic) journalID() journal.ID {
	return journal.ID{Place: journal.TopicPlace | uint32(t.place), Tag: t.tag} //nolint:gosec // there are far fewer topics
}

// note tells the journal of the topic, but for what it keeps. The lock is held.
func (t *topic) note() error {
	if t.broker.journal == nil {
		return nil
	}
	if err := t.broker.journal.Topic(t.Topic()); err != nil {
		return err
	}
	t.noted, t.newKeys, t.lastLetGo = true, 0, t.letGoCount
	return nil
}

// ensureNoted tells the journal of the topic if it does not know it. The lock is held.
func (t *topic) ensureNoted() error {
	if t.noted {
		return nil
	}
	return t.note()
}

// journalKeep tells the journal of a message that is kept next. The lock is held.
func (t *topic) journalKeep(m *broker.Message, batch *journal.Batch) error {
	if t.broker.journal == nil {
		return nil
	}
	if err := t.ensureNoted(); err != nil {
		return err
	}
	position := t.letGoCount + uint64(len(t.memory.kept)) + 1
	_, err := t.broker.journal.Put(nil, t.journalID(), position, m, batch, false)
	return err
}

// noteLetGo notes that a kept message was let go. The lock is held.
func (t *topic) noteLetGo(m *broker.Message) {
	t.letGoCount++
	t.letGoID = m.ID()
	if m.Keyed() {
		t.newKeys++
	}
}

// journalMove tells the journal when the topic was last published to, and what it has let go. The lock is held.
func (t *topic) journalMove() {
	if !t.noted {
		return
	}
	move := t.move()
	if t.lastLetGo == t.letGoCount {
		move.LetGo, move.LetGoID = 0, broker.EventID{}
	}
	move.LetGoKeys = t.memory.letGo.last(t.newKeys)
	t.broker.journal.Move(t.journalID(), move)
	t.newKeys, t.lastLetGo = 0, t.letGoCount
}

func (t *topic) move() journal.Move {
	return journal.Move{
		Taken: uint64(max(0, t.broker.wallTime(t.lastPublish).UnixNano())),
		LetGo: t.letGoCount, LetGoID: t.letGoID,
	}
}

// forgotten makes the journal forget the topic, unless the topic ceases only because the Broker closes. The lock is held.
func (t *topic) forgotten() {
	if t.noted && !t.broker.isClosed() {
		_, _ = t.broker.journal.Delete(t.journalID(), false) // which does not fail
	}
}

// LetGo implements [journal.Locked].
func (t *topic) LetGo() uint64 { return t.letGoCount }

// Topic implements [journal.Locked].
func (t *topic) Topic() *journal.Topic {
	s := &journal.Topic{
		ID: t.journalID(), Name: t.name, Keep: t.memory.keep, Set: t.memory.isSet, End: t.end, Move: t.move(),
	}
	s.LetGoKeys = t.memory.letGo.last(broker.KeyWindow)
	return s
}

// At implements [journal.Locked].
func (t *topic) At(position uint64) *broker.Message {
	if i := position - t.letGoCount - 1; i < uint64(len(t.memory.kept)) {
		return t.memory.kept[i].Message
	}
	return nil
}

// Messages implements [journal.Locked].
func (t *topic) Messages() iter.Seq2[uint64, *broker.Message] {
	return func(yield func(uint64, *broker.Message) bool) {
		for i, k := range t.memory.kept {
			if !yield(t.letGoCount+uint64(i)+1, k.Message) {
				return
			}
		}
	}
}

// These implement [journal.Locked], too. A topic has none of what they are about.

func (t *topic) Snapshot() *journal.Channel      { return nil }
func (t *topic) Member() *journal.Member         { return &journal.Member{} }
func (t *topic) IsMember(journal.ID) (_, _ bool) { return false, false }
func (t *topic) MarkAt(uint64) (m journal.Mark)  { return m }
func (t *topic) AllDurable()                     {}
func (t *topic) Retry()                          {}

// lookTopic is Look for a topic.
func (e engine) lookTopic(id journal.ID, f func(journal.Locked)) bool {
	t := e.topics.list.at(int(id.Place &^ journal.TopicPlace))
	if t == nil || t.tag != id.Tag {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone || !t.noted {
		return false
	}
	f(t)
	return true
}

// topicIDs is IDs for topics.
func (e engine) topicIDs(yield func(journal.ID) bool) bool {
	for t := range e.topics.list.all() {
		t.mu.Lock()
		id, noted := t.journalID(), t.noted && !t.gone
		t.mu.Unlock()
		if noted && !yield(id) {
			return false
		}
	}
	return true
}

// barrier waits until all is durable that was told to the journal before.
func (b *Broker) barrier(ctx context.Context) error {
	if b.journal == nil {
		return nil
	}
	return b.journal.Barrier().Wait(ctx)
}

// journalJoin tells the journal that the channel becomes a member. Both locks are held.
func (c *channel) journalJoin(t *topic) error {
	if c.journaled == nil {
		return nil
	}
	if err := t.ensureNoted(); err != nil {
		return err
	}
	return c.broker.journal.Join(c.journalID(), t.journalID())
}

// journalLeave tells the journal that the channel is a member no more. If the channel ends, its own end says so. It fails only if a
// call has asked for it. The lock is held.
func (c *channel) journalLeave(t *topic, asked bool) error {
	if c.journaled == nil || c.closed != open {
		return nil
	}
	return c.broker.journal.Leave(c.journalID(), t.journalID(), asked)
}

// journalEndWaits tells the journal that the end of a topic waits for its turn. The lock is held.
func (c *channel) journalEndWaits(t *topic) error {
	if c.journaled == nil {
		return nil
	}
	return c.broker.journal.EndWaits(c.journalID(), t.journalID())
}

// journalEndComes tells the journal that an end has come, unless another one of the topic waits, since that was closed twice. The
// lock is held.
func (c *channel) journalEndComes(w *waiter) {
	again := func(other *waiter) bool { return other != w && other.outside && other.topic == w.topic }
	if c.journaled != nil && !c.held.any(again) {
		c.broker.journal.EndComes(c.journalID(), w.topic.journalID())
	}
}

// Retry implements [journal.Locked].
func (c *channel) Retry() { c.admitHeld() }

// journalMark tells the journal what is special about the message at an index of the queue, or about the next one. The lock is
// held.
func (c *channel) journalMark(i int) {
	if c.journaled != nil && c.closed == open {
		position := c.letGoCount + uint64(i) + 1 //nolint:gosec // not negative
		c.broker.journal.Mark(c.journalID(), position, c.MarkAt(position))
	}
}

// journalMisses tells the journal that the channel misses what waits in it, since its Broker closes. The lock is held.
func (c *channel) journalMisses() {
	if c.journaled == nil {
		return
	}
	for w := c.held.first; w != nil; w = w.next {
		if w.topic != nil && !w.outside && !c.isDuplicate(w.ms[0]) {
			c.noteMiss()
		}
	}
}

// Topic implements [journal.Locked]. The channel is none.
func (c *channel) Topic() *journal.Topic { return nil }

// IsMember implements [journal.Locked].
func (c *channel) IsMember(topic journal.ID) (is, endWaits bool) {
	t := c.broker.topics.list.at(int(topic.Place &^ journal.TopicPlace))
	if t == nil || t.tag != topic.Tag || c.membership(t) == nil {
		return false, false
	}
	return true, c.held.any(func(w *waiter) bool { return w.outside && w.topic == t })
}

// MarkAt implements [journal.Locked].
func (c *channel) MarkAt(position uint64) (m journal.Mark) {
	r := c.marks()
	if r == nil || position <= c.letGoCount {
		return m
	}
	i := position - c.letGoCount - 1
	at := r.letGo + i
	if i == uint64(c.queue.len) { //nolint:gosec // not negative
		return journal.Mark{Missed: r.missed, Gap: r.gap}
	}
	if n, found := slices.BinarySearchFunc(r.notes, at, missNote.compare); found {
		m.Missed = r.notes[n].missed
	}
	m.Outside = slices.ContainsFunc(r.outside, func(s span) bool { return s.from <= at && at < s.end })
	return m
}

// Member implements [journal.Locked].
func (c *channel) Member() *journal.Member {
	s := &journal.Member{ID: c.journalID()}
	if c.first.topic != nil {
		s.Topics = append(s.Topics, c.first.topic.journalID())
	}
	for w := c.held.first; w != nil; w = w.next {
		if w.outside {
			s.Ends = append(s.Ends, w.topic.journalID())
		}
	}
	if c.rare == nil {
		return s
	}
	for _, m := range c.rare.more {
		s.Topics = append(s.Topics, m.topic.journalID())
	}
	s.Marks = c.allMarks()
	return s
}

// allMarks returns what is special about messages of the queue, and about the next one, by position.
func (c *channel) allMarks() (all []journal.Marks) {
	r := c.rare.marks
	if r == nil {
		return nil
	}
	base := c.letGoCount + 1 - r.letGo // what a position of a mark is short of the journal's
	for _, s := range r.outside {
		all = append(all, journal.Marks{Position: base + s.from, Count: int(s.end - s.from), Mark: journal.Mark{Outside: true}}) //nolint:gosec // a number of messages
	}
	for _, n := range r.notes {
		position := base + n.position
		all = append(all, journal.Marks{Position: position, Count: 1, Mark: c.MarkAt(position)})
	}
	if r.missed > 0 || r.gap {
		position := c.letGoCount + uint64(c.queue.len) + 1 //nolint:gosec // not negative
		all = append(all, journal.Marks{Position: position, Count: 1, Mark: c.MarkAt(position)})
	}
	slices.SortStableFunc(all, func(a, b journal.Marks) int { return cmp.Compare(a.Position, b.Position) })
	return all
}
