package memory

import (
	"math"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// restoreTopics makes topics of what the journal kept. They have no members yet.
func (e engine) restoreTopics(all []journal.RestoredTopic) map[journal.ID]*topic {
	byID, topics := make(map[journal.ID]*topic, len(all)), make([]*topic, 0, len(all))
	for _, r := range all {
		t := e.restoreTopic(&r)
		topics, byID[r.ID] = append(topics, t), t
	}
	e.topics.list.put(topics)
	return byID
}

// restoreTopic makes a topic of what the journal kept.
func (b *Broker) restoreTopic(r *journal.RestoredTopic) *topic {
	t := &topic{
		broker: b, name: r.Name, place: int(r.Place &^ journal.TopicPlace), turn: make(chan struct{}, 1), end: r.End,
		lastPublish: time.Unix(0, int64(min(r.Taken, math.MaxInt64))).Sub(b.epoch) + 1,
		topicJournal: topicJournal{
			tag: r.Tag, noted: true, letGoCount: r.LetGo, lastLetGo: r.LetGo, letGoID: r.LetGoID,
		},
	}
	t.memory.keep, t.memory.isSet = r.Keep, r.Set
	if r.Set {
		b.budget.buffered.Add(topicOverhead)
	}
	if r.End != nil {
		b.budget.reserve(r.End)
	}
	if len(r.LetGoKeys) > 0 {
		t.memory.letGo = new(keyWindow)
		for _, id := range r.LetGoKeys {
			t.memory.letGo.add(id)
		}
	}
	for _, m := range r.Kept {
		t.memory.add(kept{m, new(journal.Batch)})
		b.topics.keptBytes.Add(m.Size())
		b.budget.reserve(m)
	}
	t.expires.Store(never)
	b.topics.byName.Store(t.name, t)
	return t
}

// settleTopics finds out which restored topics have ceased to exist meanwhile.
func (e engine) settleTopics(byID map[journal.ID]*topic) {
	for _, t := range byID {
		t.with(func(*topic) {})
	}
}

// restoreMember makes a restored channel a member of its topics, and restores what is special about its messages. Nobody else has
// the channel.
func (c *channel) restoreMember(r *journal.Restored, topics map[journal.ID]*topic) {
	for _, id := range r.Topics {
		c.addMembership(topics[id].enter(c))
	}
	for _, id := range r.Ends {
		c.restoreEnd(topics[id])
	}
	for _, run := range r.Marks {
		for i := range uint64(run.Count) { //nolint:gosec // not negative
			c.restoreMark(run.Position+i-r.LetGo-1, run.Mark)
		}
	}
}

// restoreEnd makes the end of a topic wait that has waited before the restart. What has waited before it is lost, so it comes as
// soon as the journal takes it. The end may have come, and only the record that says so is missing.
func (c *channel) restoreEnd(t *topic) {
	if t.end == nil || !c.knowsTopics || t.end.ID() == c.settled || c.queue.find(t.end.ID(), c.queue.len) >= 0 {
		return
	}
	c.enqueue(&waiter{channel: c, ms: []*broker.Message{t.end}, topic: t, owner: nobody{}, outside: true})
	c.broker.journal.Retry(c.journalID())
}

// restoreMark restores what is special about the message at an index of the queue, or about the next one. Each call is for a later
// one than the call before.
func (c *channel) restoreMark(i uint64, m journal.Mark) {
	marks := c.ensureMarks()
	if i >= uint64(c.queue.len) { //nolint:gosec // not negative
		marks.missed, marks.gap = m.Missed, m.Gap
		return
	}
	if m.Missed > 0 {
		marks.notes = append(marks.notes, missNote{i, m.Missed})
	}
	if m.Outside && i >= uint64(c.queue.inFlight) { //nolint:gosec // not negative
		marks.addOutside(i)
	}
}
