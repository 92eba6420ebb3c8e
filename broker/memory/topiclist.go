package memory

import (
	"context"
	"strconv"
	"strings"

	"github.com/caddy-megaphone/megaphone/broker"
)

// KeepTopic implements [broker.Topics].
func (b *Broker) KeepTopic(ctx context.Context, name string, k broker.Keep, l broker.Limits) (err error) {
	if b.isClosed() {
		return broker.ErrClosed
	}
	if !b.budget.hasRoom(l.MaxMemory) {
		return broker.ErrMemoryLimit
	}
	b.withTopic(name, &l, func(t *topic) { err = t.set(k, true, b.now()) })
	if err != nil {
		return err
	}
	return b.barrier(ctx)
}

// Topic implements [broker.Topics].
func (b *Broker) Topic(_ context.Context, name string) (broker.TopicInfo, error) {
	if b.isClosed() {
		return broker.TopicInfo{}, broker.ErrClosed
	}
	if t := b.findTopic(name); t != nil {
		if i, ok := t.info(); ok {
			return i, nil
		}
	}
	return broker.TopicInfo{Name: name}, nil
}

// info returns what there is to know of the topic, or false if it does not exist any more.
func (t *topic) info() (i broker.TopicInfo, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i = broker.TopicInfo{
		Name: t.name, Members: t.members.count, Connected: int(t.connected.Load()),
		Kept: len(t.memory.kept), KeptBytes: t.memory.bytes, Keep: t.memory.keep,
	}
	if t.end != nil {
		i.Closed = t.end.End()
	}
	return i, !t.gone
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
	page, now, examined := broker.TopicPage{Topics: []broker.TopicInfo{}}, int64(b.now()), 0
	for t := range b.topics.list.from(place) {
		if examined == maxExamined || len(page.Topics) >= o.Limit {
			page.Next = strconv.Itoa(t.place)
			break
		}
		examined++
		if !strings.HasPrefix(t.name, o.Prefix) || t.expires.Load() <= now {
			continue
		}
		if i, ok := t.info(); ok && i.Members >= o.MinMembers {
			page.Topics = append(page.Topics, i)
		}
	}
	return page, nil
}
