package memory

import (
	"context"
	"math/rand/v2"

	"github.com/caddy-megaphone/megaphone/broker"
)

// Create implements [broker.Broker].
func (b *Broker) Create(ctx context.Context, agent string, l broker.Limits) (broker.Addresses, error) {
	return b.create(ctx, agent, nil, false, l)
}

// create makes a channel. With knows, it knows topics.
func (b *Broker) create(ctx context.Context, agent string, topics []broker.Join, knows bool, l broker.Limits) (broker.Addresses, error) {
	if b.isClosed() {
		return broker.Addresses{}, broker.ErrClosed
	}
	if b.drain.active.Load() {
		return broker.Addresses{}, broker.ErrDraining
	}
	if b.count.Add(1) > int64(l.MaxChannels) {
		b.count.Add(-1)
		return broker.Addresses{}, broker.ErrChannelLimit
	}
	c := &channel{broker: b, agent: agent, created: b.now(), knowsTopics: knows, tag: rand.Uint32()} //nolint:gosec // no secret
	if l.MaxChannelsPerClient > 0 && l.Client != "" {
		if !b.quotas.reserve(l.Client, l.MaxChannelsPerClient) {
			b.count.Add(-1)
			return broker.Addresses{}, broker.ErrClientLimit
		}
		c.rare = &rare{client: l.Client}
	}
	if l.ChannelTTL != 0 {
		c.ensureRare().ttl = l.ChannelTTL
	}
	ttl := c.lifetime(l.TTL)
	c.producer, c.consumer = broker.NewSecrets()
	c.expires.Store(int64(c.created + ttl))
	c.counters = &b.counters[c.producer[0]%counterShards]
	commit, err := b.add(c, ttl)
	if err != nil {
		return broker.Addresses{}, err
	}
	if err := c.joinAll(topics, &l); err != nil {
		b.discard(c)
		return broker.Addresses{}, err
	}
	if len(topics) > 0 && b.journal != nil {
		commit = b.journal.Barrier()
	}
	if b.isClosed() { // Close may have missed it
		b.discard(c)
		return broker.Addresses{}, broker.ErrClosed
	}
	if b.drain.active.Load() { // Drain may have missed it
		b.discard(c)
		return broker.Addresses{}, broker.ErrDraining
	}
	if commit.Wait(ctx) != nil {
		b.discard(c)
		return broker.Addresses{}, broker.ErrStorage
	}
	return c.addresses(), nil
}

// discard removes a channel that nobody knows of yet. It reports no deletion.
func (b *Broker) discard(c *channel) {
	c.mu.Lock()
	_ = c.forget(false) // which does not fail
	c.mu.Unlock()
	b.remove(c, broker.EndClosed)
}
