package disk

import (
	"context"

	"github.com/caddy-megaphone/megaphone/broker"
)

// Until the channels are there, nobody may be told that a channel does not exist. So all calls fail with
// [broker.ErrStarting] until then. After Close, the Broker in memory knows what they fail with.

var (
	_ broker.Broker        = (*Broker)(nil)
	_ broker.Topics        = (*Broker)(nil)
	_ broker.TopicSource   = (*Broker)(nil)
	_ broker.Continuer     = (*Broker)(nil)
	_ broker.Starter       = (*Broker)(nil)
	_ broker.HealthChecker = (*Broker)(nil)
	_ broker.Keeper        = (*Broker)(nil)
	_ broker.Backuper      = (*Broker)(nil)
)

// starts returns ErrStarting until the Broker has started.
func (b *Broker) starts() error {
	if b.ready.Load() {
		return nil
	}
	return broker.ErrStarting
}

// Create implements [broker.Broker].
func (b *Broker) Create(ctx context.Context, agent string, l broker.Limits) (broker.Addresses, error) {
	if err := b.starts(); err != nil {
		return broker.Addresses{}, err
	}
	return b.Broker.Create(ctx, agent, l)
}

// Publish implements [broker.Broker].
func (b *Broker) Publish(ctx context.Context, producer string, m *broker.Message, l broker.Limits) error {
	if err := b.starts(); err != nil {
		return err
	}
	return b.Broker.Publish(ctx, producer, m, l)
}

// PublishThen implements [broker.Continuer].
func (b *Broker) PublishThen(producer string, m *broker.Message, l broker.Limits, c broker.Continuation) bool {
	return b.starts() == nil && b.Broker.PublishThen(producer, m, l, c)
}

// PublishBatch implements [broker.Broker].
func (b *Broker) PublishBatch(ctx context.Context, producers []string, ms []*broker.Message, l broker.Limits) []broker.Outcome {
	if err := b.starts(); err != nil {
		outcomes := make([]broker.Outcome, len(producers))
		for i := range outcomes {
			outcomes[i].Err = err
		}
		return outcomes
	}
	return b.Broker.PublishBatch(ctx, producers, ms, l)
}

// Ingest implements [broker.Broker].
func (b *Broker) Ingest(l broker.Limits) broker.Ingestion {
	in := b.Broker.Ingest(l)
	if b.starts() != nil {
		return startingIngestion{in}
	}
	return in
}

// A startingIngestion fails with ErrStarting.
type startingIngestion struct{ broker.Ingestion }

// Write implements [broker.Ingestion].
func (in startingIngestion) Write(_ context.Context, number int, producer []byte, _ *broker.Message) error {
	in.Fail(number, string(producer), broker.ErrStarting)
	return nil
}

// Subscribe implements [broker.Broker].
func (b *Broker) Subscribe(ctx context.Context, consumer string, o broker.SubscribeOptions) (broker.Subscription, error) {
	if err := b.starts(); err != nil {
		return nil, err
	}
	return b.Broker.Subscribe(ctx, consumer, o)
}

// State implements [broker.Broker].
func (b *Broker) State(ctx context.Context, address string) (broker.State, error) {
	if err := b.starts(); err != nil {
		return broker.State{}, err
	}
	return b.Broker.State(ctx, address)
}

// Delete implements [broker.Broker].
func (b *Broker) Delete(ctx context.Context, address string) error {
	if err := b.starts(); err != nil {
		return err
	}
	return b.Broker.Delete(ctx, address)
}

// List implements [broker.Broker].
func (b *Broker) List(ctx context.Context, o broker.ListOptions) (broker.ChannelPage, error) {
	if err := b.starts(); err != nil {
		return broker.ChannelPage{}, err
	}
	return b.Broker.List(ctx, o)
}

// Find implements [broker.Broker].
func (b *Broker) Find(ctx context.Context, name string) (broker.ChannelInfo, error) {
	if err := b.starts(); err != nil {
		return broker.ChannelInfo{}, err
	}
	return b.Broker.Find(ctx, name)
}

// Peek implements [broker.Broker].
func (b *Broker) Peek(ctx context.Context, address string, limit int) ([]*broker.Message, error) {
	if err := b.starts(); err != nil {
		return nil, err
	}
	return b.Broker.Peek(ctx, address, limit)
}

// CreateMember implements [broker.Topics].
func (b *Broker) CreateMember(ctx context.Context, agent string, topics []broker.Join, l broker.Limits) (broker.Addresses, error) {
	if err := b.starts(); err != nil {
		return broker.Addresses{}, err
	}
	return b.Broker.CreateMember(ctx, agent, topics, l)
}

// Join implements [broker.Topics].
func (b *Broker) Join(ctx context.Context, producer string, topic broker.Join, l broker.Limits) error {
	if err := b.starts(); err != nil {
		return err
	}
	return b.Broker.Join(ctx, producer, topic, l)
}

// Leave implements [broker.Topics].
func (b *Broker) Leave(ctx context.Context, producer, topic string) error {
	if err := b.starts(); err != nil {
		return err
	}
	return b.Broker.Leave(ctx, producer, topic)
}

// KeepTopic implements [broker.Topics].
func (b *Broker) KeepTopic(ctx context.Context, topic string, k broker.Keep, l broker.Limits) error {
	if err := b.starts(); err != nil {
		return err
	}
	return b.Broker.KeepTopic(ctx, topic, k, l)
}

// PublishTopic implements [broker.Topics].
func (b *Broker) PublishTopic(ctx context.Context, topic string, m *broker.Message, full broker.WhenFull, l broker.Limits,
) (broker.Published, error) {
	if err := b.starts(); err != nil {
		return broker.Published{}, err
	}
	return b.Broker.PublishTopic(ctx, topic, m, full, l)
}

// CloseTopic implements [broker.Topics].
func (b *Broker) CloseTopic(ctx context.Context, topic string, end *broker.Message, l broker.Limits) error {
	if err := b.starts(); err != nil {
		return err
	}
	return b.Broker.CloseTopic(ctx, topic, end, l)
}

// Topic implements [broker.Topics].
func (b *Broker) Topic(ctx context.Context, topic string) (broker.TopicInfo, error) {
	if err := b.starts(); err != nil {
		return broker.TopicInfo{}, err
	}
	return b.Broker.Topic(ctx, topic)
}

// ListTopics implements [broker.Topics].
func (b *Broker) ListTopics(ctx context.Context, o broker.TopicListOptions) (broker.TopicPage, error) {
	if err := b.starts(); err != nil {
		return broker.TopicPage{}, err
	}
	return b.Broker.ListTopics(ctx, o)
}
