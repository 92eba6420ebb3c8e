package disk

import (
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/brokertest"
)

// TestTheContractHoldsAcrossRestarts runs the contract on a Broker that is left alone and opened anew after every third call,
// as if its process had been killed, and after every call if MEGAPHONE_KILLS is set. It cannot do that while a call or a
// reader lasts, which a restart ends.
func TestTheContractHoldsAcrossRestarts(t *testing.T) {
	restarts, every := 0, 3
	if os.Getenv("MEGAPHONE_KILLS") != "" {
		every = 1
	}
	brokertest.Run(t, brokertest.Options{New: func(t *testing.T) broker.Broker {
		// After a restart, a channel lives for a whole TTL. And the tests of closing use what was there before.
		never := strings.Contains(t.Name(), "/expiry/") || strings.Contains(t.Name(), "/close/")
		b := &restartingBroker{t: t, never: never, every: every, could: rand.IntN(every), restarts: &restarts, Broker: openTest(t, &testFolder{}, Process)}
		if strings.Contains(t.Name(), "/topic_model/") {
			b.every = 100 // it makes some 100,000 calls
		}
		return b
	}})
	if t.Logf("%d restarts", restarts); restarts < 1000 {
		t.Error("these are too few")
	}
}

// openTest opens a Broker on a folder.
func openTest(tb testing.TB, f folder, d Durability) *Broker {
	tb.Helper()
	b := Open(Options{segment: smallSegment, folder: f, Settings: Settings{Durability: d}})
	if err := b.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return b
}

// A restartingBroker is a Broker that restarts after each call. It has none of the optional interfaces: what they tell is
// of one process.
type restartingBroker struct {
	broker.Broker

	t        *testing.T
	restarts *int
	never    bool
	every    int // how many times it could restart before it does

	mu      sync.Mutex
	calls   int
	readers []broker.Subscription
	could   int
	closed  bool
}

// use notes a call. The returned function ends it, and restarts the Broker if nobody else uses it.
func (b *restartingBroker) use() (broker.Broker, func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	return b.Broker, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.readers = slices.DeleteFunc(b.readers, func(s broker.Subscription) bool { return s.Err() != nil })
		if b.calls--; b.calls > 0 || len(b.readers) > 0 || b.never || b.closed {
			return
		}
		if b.could++; b.could%b.every != 0 {
			return
		}
		old := b.Broker.(*Broker)
		image := old.options.folder.(*testFolder).content()
		old.Close()
		*b.restarts++
		b.Broker = openTest(b.t, folderOf(image), Process)
	}
}

func (b *restartingBroker) Create(ctx context.Context, agent string, l broker.Limits) (broker.Addresses, error) {
	current, done := b.use()
	defer done()
	return current.Create(ctx, agent, l)
}

func (b *restartingBroker) Publish(ctx context.Context, producer string, m *broker.Message, l broker.Limits) error {
	current, done := b.use()
	defer done()
	return current.Publish(ctx, producer, m, l)
}

func (b *restartingBroker) PublishNow(producer string, m *broker.Message, l broker.Limits) bool {
	current, done := b.use()
	defer done()
	return current.PublishNow(producer, m, l)
}

func (b *restartingBroker) PublishThen(producer string, m *broker.Message, l broker.Limits, c broker.Continuation) bool {
	current, done := b.use()
	defer done()
	return current.(*Broker).PublishThen(producer, m, l, c)
}

func (b *restartingBroker) PublishBatch(ctx context.Context, producers []string, ms []*broker.Message, l broker.Limits,
) []broker.Outcome {
	current, done := b.use()
	defer done()
	return current.PublishBatch(ctx, producers, ms, l)
}

func (b *restartingBroker) Ingest(l broker.Limits) broker.Ingestion {
	current, done := b.use()
	return restartingIngestion{current.Ingest(l), done}
}

type restartingIngestion struct {
	broker.Ingestion

	done func()
}

func (in restartingIngestion) Finish(ctx context.Context) broker.IngestResult {
	defer in.done()
	return in.Ingestion.Finish(ctx)
}

func (b *restartingBroker) Subscribe(ctx context.Context, consumer string, o broker.SubscribeOptions) (broker.Subscription, error) {
	current, done := b.use()
	defer done()
	s, err := current.Subscribe(ctx, consumer, o)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.readers = append(b.readers, s)
	return &restartingSubscription{s, b}, nil
}

type restartingSubscription struct {
	broker.Subscription

	broker *restartingBroker
}

func (s *restartingSubscription) End(how broker.End) {
	_, done := s.broker.use()
	defer done()
	s.Subscription.End(how)
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	s.broker.readers = slices.DeleteFunc(s.broker.readers, func(r broker.Subscription) bool { return r == s.Subscription })
}

func (b *restartingBroker) Delete(ctx context.Context, address string) error {
	current, done := b.use()
	defer done()
	return current.Delete(ctx, address)
}

func (b *restartingBroker) State(ctx context.Context, address string) (broker.State, error) {
	current, done := b.use()
	defer done()
	return current.State(ctx, address)
}

func (b *restartingBroker) List(ctx context.Context, o broker.ListOptions) (broker.ChannelPage, error) {
	current, done := b.use()
	defer done()
	return current.List(ctx, o)
}

func (b *restartingBroker) Find(ctx context.Context, name string) (broker.ChannelInfo, error) {
	current, done := b.use()
	defer done()
	return current.Find(ctx, name)
}

func (b *restartingBroker) Peek(ctx context.Context, address string, limit int) ([]*broker.Message, error) {
	current, done := b.use()
	defer done()
	return current.Peek(ctx, address, limit)
}

func (b *restartingBroker) CreateMember(ctx context.Context, agent string, topics []broker.Join, l broker.Limits) (broker.Addresses, error) {
	current, done := b.use()
	defer done()
	return current.(*Broker).CreateMember(ctx, agent, topics, l)
}

func (b *restartingBroker) Join(ctx context.Context, producer string, j broker.Join, l broker.Limits) error {
	current, done := b.use()
	defer done()
	return current.(*Broker).Join(ctx, producer, j, l)
}

func (b *restartingBroker) Leave(ctx context.Context, producer, topic string) error {
	current, done := b.use()
	defer done()
	return current.(*Broker).Leave(ctx, producer, topic)
}

func (b *restartingBroker) KeepTopic(ctx context.Context, topic string, k broker.Keep, l broker.Limits) error {
	current, done := b.use()
	defer done()
	return current.(*Broker).KeepTopic(ctx, topic, k, l)
}

func (b *restartingBroker) PublishTopic(ctx context.Context, topic string, m *broker.Message, full broker.WhenFull, l broker.Limits,
) (broker.Published, error) {
	current, done := b.use()
	defer done()
	return current.(*Broker).PublishTopic(ctx, topic, m, full, l)
}

func (b *restartingBroker) CloseTopic(ctx context.Context, topic string, end *broker.Message, l broker.Limits) error {
	current, done := b.use()
	defer done()
	return current.(*Broker).CloseTopic(ctx, topic, end, l)
}

func (b *restartingBroker) Topic(ctx context.Context, topic string) (broker.TopicInfo, error) {
	current, done := b.use()
	defer done()
	return current.(*Broker).Topic(ctx, topic)
}

func (b *restartingBroker) ListTopics(ctx context.Context, o broker.TopicListOptions) (broker.TopicPage, error) {
	current, done := b.use()
	defer done()
	return current.(*Broker).ListTopics(ctx, o)
}

func (b *restartingBroker) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.Broker.Close()
}
