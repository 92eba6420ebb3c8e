package memory

import (
	"context"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

var _ interface {
	broker.Topics
	broker.TopicSource
} = (*Broker)(nil)

// membership returns the channel's membership of a topic, or nil. The lock is held.
func (c *channel) membership(t *topic) *membership {
	if c.first.topic == t {
		return &c.first
	}
	if c.rare != nil {
		for i := range c.rare.more {
			if c.rare.more[i].topic == t {
				return &c.rare.more[i]
			}
		}
	}
	return nil
}

// memberships returns of how many topics the channel is a member. The lock is held.
func (c *channel) memberships() (n int) {
	if c.first.topic != nil {
		n++
	}
	if c.rare != nil {
		n += len(c.rare.more)
	}
	return n
}

// A membership is a channel's part of being a member. The channel's lock guards it.
type membership struct {
	topic  *topic
	place  uint32 // among the topic's members
	joined uint32 // as in the slot, but for its upper bits
}

// join makes the channel a member of a topic, and brings it what the topic keeps. The lock is held.
func (c *channel) join(j broker.Join, l *broker.Limits) error {
	if t := c.broker.findTopic(j.Topic); t != nil && c.membership(t) != nil {
		return nil
	}
	if c.memberships() >= l.MaxTopics {
		return broker.ErrTopicLimit
	}
	var joined membership
	var all []kept
	var err error
	c.broker.withTopic(j.Topic, l, func(t *topic) {
		if err = t.applyDefault(l); err != nil {
			return
		}
		if err = c.journalJoin(t); err != nil {
			return
		}
		joined = t.add(c)
		if j.Last != 0 {
			all = t.last(j.Last)
			if t.end != nil && c.knowsTopics {
				all = append(all, kept{t.end, new(journal.Batch)})
			}
		}
		if c.reader != nil {
			t.connected.Add(1)
		}
	})
	if err != nil {
		return err
	}
	c.addMembership(joined)
	// The walks from which the channel gets messages wait for its lock. So these come after the kept ones.
	if err := c.bring(all, l); err != nil {
		_ = c.leave(joined.topic, false) // or else the channel would not get them when it joins again
		return err
	}
	return nil
}

// addMembership adds to the channel's memberships. The lock is held.
func (c *channel) addMembership(joined membership) {
	if c.first.topic == nil {
		c.first = joined
		return
	}
	r := c.ensureRare()
	if len(r.more) == cap(r.more) { // by less than append would: there may be many channels with a few topics
		grow := 4
		if r.more == nil {
			grow = 1
		}
		r.more = append(make([]membership, 0, len(r.more)+grow), r.more...)
	}
	r.more = append(r.more, joined)
}

// checkJoins checks that a new channel may join the topics.
func checkJoins(joins []broker.Join, l *broker.Limits) error {
	if len(joins) <= l.MaxTopics {
		return nil
	}
	names := map[string]struct{}{}
	for _, j := range joins {
		if names[j.Topic] = struct{}{}; len(names) > l.MaxTopics {
			return broker.ErrTopicLimit
		}
	}
	return nil
}

// joinAll makes a new channel a member of topics.
func (c *channel) joinAll(joins []broker.Join, l *broker.Limits) error {
	if len(joins) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, j := range joins {
		if err := c.join(j, l); err != nil {
			return err
		}
	}
	return nil
}

// leave ends the membership of a topic, and withdraws the messages of the topic that wait for room. It fails only if a call has asked
// for that and the journal fails; then nothing happens. The lock is held.
func (c *channel) leave(t *topic, asked bool) error {
	m := c.membership(t)
	if m == nil {
		return nil
	}
	if err := c.journalLeave(t, asked); err != nil {
		return err
	}
	if c.reader != nil {
		t.connected.Add(-1)
	}
	t.remove(*m)
	c.noteGap()
	if r := c.rare; r != nil && len(r.more) > 0 {
		last := len(r.more) - 1
		*m = r.more[last]
		if r.more = r.more[:last]; last == 0 {
			r.more = nil
		}
	} else {
		*m = membership{} // the first
	}
	c.withdrawOf(t)
	return nil
}

// withdrawOf withdraws the messages of a topic that wait for room. The lock is held.
func (c *channel) withdrawOf(t *topic) {
	first := c.held.first
	for w := first; w != nil; {
		next := w.next
		if w.topic == t {
			c.dequeue(w, errLeft)
		}
		w = next
	}
	if first != c.held.first {
		c.admitHeld()
	}
}

// leaveAll ends all memberships. The channel has no reader. The lock is held.
func (c *channel) leaveAll() {
	for c.first.topic != nil {
		_ = c.leave(c.first.topic, false)
	}
}

// readerChanged tells the topics that the channel has a reader, or has none any more. The lock is held.
func (c *channel) readerChanged(by int64) {
	if c.first.topic == nil {
		return
	}
	c.first.topic.connected.Add(by)
	if c.rare != nil {
		for _, m := range c.rare.more {
			m.topic.connected.Add(by)
		}
	}
}

// CreateMember implements [broker.Topics].
func (b *Broker) CreateMember(ctx context.Context, agent string, topics []broker.Join, l broker.Limits) (broker.Addresses, error) {
	if err := checkJoins(topics, &l); err != nil {
		return broker.Addresses{}, err
	}
	return b.create(ctx, agent, topics, true, l)
}

// Join implements [broker.Topics].
func (b *Broker) Join(ctx context.Context, producer string, j broker.Join, l broker.Limits) error {
	c, err := b.lookup(producer, producerKind)
	if err != nil {
		return err
	}
	if err := c.tryJoin(j, &l); err != nil {
		return err
	}
	return b.barrier(ctx)
}

// tryJoin is join for a channel that may be closed.
func (c *channel) tryJoin(j broker.Join, l *broker.Limits) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != open {
		return c.closed.err()
	}
	if c.sealed.Load() {
		return broker.ErrNotFound
	}
	return c.join(j, l)
}

// Leave implements [broker.Topics].
func (b *Broker) Leave(ctx context.Context, producer, topic string) error {
	c, err := b.lookup(producer, producerKind)
	if err != nil {
		return err
	}
	if err := c.tryLeave(topic); err != nil {
		return err
	}
	return b.barrier(ctx)
}

// tryLeave is leave for a channel that may be closed, and a topic that may not exist.
func (c *channel) tryLeave(topic string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != open {
		return c.closed.err()
	}
	if t := c.broker.findTopic(topic); t != nil {
		return c.leave(t, true)
	}
	return nil
}
