package redis_test

import (
	"context"
	"crypto/rand"
	mathrand "math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/brokertest"
	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// TestNodes runs the contract's tests against several nodes that share a Redis, as if they were one Broker: each call goes to one
// of them at random, as with a load balancer.
func TestNodes(t *testing.T) {
	s := sharedServer(t)
	brokertest.Run(t, brokertest.Options{
		New: func(t *testing.T) broker.Broker {
			o := s.options("test:" + rand.Text() + ":")
			return &nodes{all: []*redis.Broker{open(t, o), open(t, o), open(t, o)}}
		},
		RealTime: true, Shared: true, Copies: true,
	})
}

// nodes are Brokers that share a Redis, as one.
type nodes struct {
	all       []*redis.Broker
	reporting sync.Mutex
}

func (n *nodes) any() *redis.Broker { return n.all[mathrand.IntN(len(n.all))] }

func (n *nodes) Create(ctx context.Context, agent string, l broker.Limits) (broker.Addresses, error) {
	return n.any().Create(ctx, agent, l)
}

func (n *nodes) Publish(ctx context.Context, producer string, m *broker.Message, l broker.Limits) error {
	return n.any().Publish(ctx, producer, m, l)
}

func (n *nodes) PublishNow(producer string, m *broker.Message, l broker.Limits) bool {
	return n.any().PublishNow(producer, m, l)
}

func (n *nodes) PublishBatch(ctx context.Context, producers []string, ms []*broker.Message, l broker.Limits) []broker.Outcome {
	return n.any().PublishBatch(ctx, producers, ms, l)
}

func (n *nodes) Ingest(l broker.Limits) broker.Ingestion { return n.any().Ingest(l) }

func (n *nodes) Subscribe(ctx context.Context, consumer string, o broker.SubscribeOptions) (broker.Subscription, error) {
	return n.any().Subscribe(ctx, consumer, o)
}

func (n *nodes) State(ctx context.Context, address string) (broker.State, error) {
	return n.any().State(ctx, address)
}

func (n *nodes) Delete(ctx context.Context, address string) error {
	return n.any().Delete(ctx, address)
}

func (n *nodes) List(ctx context.Context, o broker.ListOptions) (broker.ChannelPage, error) {
	return n.any().List(ctx, o)
}

func (n *nodes) Find(ctx context.Context, name string) (broker.ChannelInfo, error) {
	return n.any().Find(ctx, name)
}

func (n *nodes) Peek(ctx context.Context, address string, limit int) ([]*broker.Message, error) {
	return n.any().Peek(ctx, address, limit)
}

func (n *nodes) Close() {
	var closing sync.WaitGroup
	for _, b := range n.all {
		closing.Go(b.Close)
	}
	closing.Wait()
}

// Stats adds up what happened in each node. What the channels hold each node counts for all.
func (n *nodes) Stats() broker.Stats {
	sum := n.all[0].Stats()
	for _, b := range n.all[1:] {
		s := b.Stats()
		sum.Accepted += s.Accepted
		sum.Duplicates += s.Duplicates
		sum.Replaced += s.Replaced
		sum.Appended += s.Appended
		sum.Sent += s.Sent
		sum.Redelivered += s.Redelivered
		sum.RefusedFull += s.RefusedFull
		sum.RefusedMemory += s.RefusedMemory
		sum.Settled += s.Settled
		sum.Unroutable += s.Unroutable
		sum.Withdrawn += s.Withdrawn
		sum.Created += s.Created
		sum.Published += s.Published
		sum.Skipped += s.Skipped
		for _, reason := range broker.EndReasons {
			sum.Undelivered[reason] += s.Undelivered[reason]
			sum.Deleted[reason] += s.Deleted[reason]
		}
		addHistogram(&sum.PublishWait, s.PublishWait)
		addHistogram(&sum.DeliveryDelay, s.DeliveryDelay)
		addHistogram(&sum.ChannelLife, s.ChannelLife)
	}
	return sum
}

func addHistogram(sum *broker.Histogram, h broker.Histogram) {
	for i := range sum.Cumulative {
		sum.Cumulative[i] += h.Cumulative[i]
	}
	sum.Count += h.Count
	sum.Sum += h.Sum
}

func (n *nodes) OnDeletions(report func([]broker.Deletion)) {
	for _, b := range n.all {
		b.OnDeletions(func(batch []broker.Deletion) {
			n.reporting.Lock()
			defer n.reporting.Unlock()
			report(batch)
		})
	}
}

func (n *nodes) OnWaiting(after func() time.Duration, report func([]broker.Waiting)) {
	for _, b := range n.all {
		b.OnWaiting(after, func(batch []broker.Waiting) {
			n.reporting.Lock()
			defer n.reporting.Unlock()
			report(batch)
		})
	}
}

func (n *nodes) FlushDeletions() {
	for _, b := range n.all {
		b.FlushDeletions()
	}
}

func (n *nodes) Drain(over time.Duration) (sum broker.DrainState) {
	for _, b := range n.all {
		sum = addDrains(sum, b.Drain(over))
	}
	return sum
}

func (n *nodes) Undrain() {
	for _, b := range n.all {
		b.Undrain()
	}
}

func (n *nodes) DrainState() (sum broker.DrainState) {
	for _, b := range n.all {
		sum = addDrains(sum, b.DrainState())
	}
	return sum
}

func addDrains(a, b broker.DrainState) broker.DrainState {
	if a == (broker.DrainState{}) {
		return b
	}
	a.Done = a.Done && b.Done
	a.Channels += b.Channels
	a.Remaining += b.Remaining
	a.Undelivered += b.Undelivered
	return a
}
