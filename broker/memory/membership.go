package memory

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-megaphone/megaphone/broker"
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

// join makes the channel a member of a topic, and brings it what the topic keeps. The lock is held.
func (c *channel) join(j broker.Join, l *broker.Limits) error {
	if t := c.broker.topics.find(j.Topic); t != nil && c.membership(t) != nil {
		return nil
	}
	if c.memberships() >= l.MaxTopics {
		return broker.ErrTopicLimit
	}
	var joined membership
	var kept []*broker.Message
	var end *broker.Message
	c.broker.withTopic(j.Topic, l, func(t *topic) {
		joined = t.add(c)
		if j.Last != 0 {
			kept, end = t.last(j.Last), t.end
		}
		if c.reader != nil {
			t.connected.Add(1)
		}
	})
	if c.first.topic == nil {
		c.first = joined
	} else {
		r := c.ensureRare()
		r.more = append(r.more, joined)
	}
	// Other walks wait for the channel's lock, so they come after the kept messages.
	for _, m := range kept {
		if c.isDuplicate(m) {
			continue
		}
		if err := c.putOutside(m, l, nil); err != nil {
			return err
		}
	}
	if end != nil && c.knowsTopics() {
		return c.putOutside(end, l, nil)
	}
	return nil
}

// joinAll makes a new channel a member of topics.
func (c *channel) joinAll(topics []broker.Join, l *broker.Limits) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, j := range topics {
		if err := c.join(j, l); err != nil {
			return err
		}
	}
	return nil
}

// leave ends the membership of a topic. The lock is held.
func (c *channel) leave(t *topic) {
	m := c.membership(t)
	if m == nil {
		return
	}
	if c.reader != nil {
		t.connected.Add(-1)
	}
	t.remove(c.broker, *m)
	if m != &c.first {
		c.rare.more = slices.DeleteFunc(c.rare.more, func(m membership) bool { return m.topic == t })
		return
	}
	c.first = membership{}
	if c.rare != nil && len(c.rare.more) > 0 {
		last := len(c.rare.more) - 1
		c.first, c.rare.more = c.rare.more[last], c.rare.more[:last]
	}
}

// leaveAll ends all memberships. The channel has no reader. The lock is held.
func (c *channel) leaveAll() {
	for c.first.topic != nil {
		c.leave(c.first.topic)
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
	return b.create(ctx, agent, topics, true, l)
}

// Join implements [broker.Topics].
func (b *Broker) Join(_ context.Context, producer string, j broker.Join, l broker.Limits) error {
	c, err := b.lookup(producer, producerKind)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != open {
		return c.closed.err()
	}
	return c.join(j, &l)
}

// Leave implements [broker.Topics].
func (b *Broker) Leave(_ context.Context, producer, topic string) error {
	c, err := b.lookup(producer, producerKind)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != open {
		return c.closed.err()
	}
	if t := b.topics.find(topic); t != nil {
		c.leave(t)
	}
	return nil
}

// KeepTopic implements [broker.Topics].
func (b *Broker) KeepTopic(_ context.Context, name string, k broker.Keep, l broker.Limits) error {
	if b.isClosed() {
		return broker.ErrClosed
	}
	b.withTopic(name, &l, func(t *topic) {
		t.keep, t.keepSet, t.lastUsed = k, true, b.now()
		t.forget(b, k.Bytes)
	})
	return nil
}

// Topic implements [broker.Topics].
func (b *Broker) Topic(_ context.Context, name string) (broker.TopicInfo, error) {
	if b.isClosed() {
		return broker.TopicInfo{}, broker.ErrClosed
	}
	t := b.topics.find(name)
	if t == nil {
		return broker.TopicInfo{Name: name}, nil
	}
	return t.info(), nil
}

func (t *topic) info() broker.TopicInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := broker.TopicInfo{
		Name: t.name, Members: t.members, Connected: int(max(0, t.connected.Load())), Kept: len(t.kept), KeptBytes: t.bytes, Keep: t.keep,
	}
	if t.end != nil {
		i.Closed = t.end.End()
	}
	return i
}

// ListTopics implements [broker.Topics].
func (b *Broker) ListTopics(_ context.Context, o broker.TopicListOptions) (broker.TopicPage, error) {
	if b.isClosed() {
		return broker.TopicPage{}, broker.ErrClosed
	}
	place, err := parseCursor(o.After)
	if err != nil {
		return broker.TopicPage{}, err
	}
	page, examined := broker.TopicPage{Topics: []broker.TopicInfo{}}, 0
	for t := range b.topics.list.from(place) {
		if examined == maxExamined || len(page.Topics) >= o.Limit {
			page.Next = strconv.Itoa(t.place)
			break
		}
		if examined++; !strings.HasPrefix(t.name, o.Prefix) {
			continue
		}
		if i := t.info(); i.Members >= o.MinMembers {
			page.Topics = append(page.Topics, i)
		}
	}
	return page, nil
}
