package redis_test

import (
	"context"

	"github.com/caddy-megaphone/megaphone/broker"
)

func (n *nodes) CreateMember(ctx context.Context, agent string, topics []broker.Join, l broker.Limits) (broker.Addresses, error) {
	return n.any().CreateMember(ctx, agent, topics, l)
}

func (n *nodes) Join(ctx context.Context, producer string, topic broker.Join, l broker.Limits) error {
	return n.any().Join(ctx, producer, topic, l)
}

func (n *nodes) Leave(ctx context.Context, producer, topic string) error {
	return n.any().Leave(ctx, producer, topic)
}

func (n *nodes) KeepTopic(ctx context.Context, topic string, k broker.Keep, l broker.Limits) error {
	return n.any().KeepTopic(ctx, topic, k, l)
}

func (n *nodes) PublishTopic(
	ctx context.Context, topic string, m *broker.Message, full broker.WhenFull, l broker.Limits,
) (broker.Published, error) {
	return n.any().PublishTopic(ctx, topic, m, full, l)
}

func (n *nodes) CloseTopic(ctx context.Context, topic string, end *broker.Message, l broker.Limits) error {
	return n.any().CloseTopic(ctx, topic, end, l)
}

func (n *nodes) Topic(ctx context.Context, topic string) (broker.TopicInfo, error) {
	return n.any().Topic(ctx, topic)
}

func (n *nodes) ListTopics(ctx context.Context, o broker.TopicListOptions) (broker.TopicPage, error) {
	return n.any().ListTopics(ctx, o)
}

func (n *nodes) OnTopics(report func([]broker.TopicEvent)) {
	for _, b := range n.all {
		b.OnTopics(func(batch []broker.TopicEvent) {
			n.reporting.Lock()
			defer n.reporting.Unlock()
			report(batch)
		})
	}
}
