package megaphone_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
)

func init() { caddy.RegisterModule(new(topicModule)) }

// A topicModule is a guest module that provides a topicGuest.
type topicModule struct{}

func (*topicModule) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "megaphone.brokers.topical", New: func() caddy.Module { return new(topicModule) }}
}

func (*topicModule) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (*topicModule) BrokerKey() string { return "" }

func (*topicModule) OpenBroker() (broker.Broker, error) {
	return &topicGuest{Broker: memory.New(), topics: map[string]*guestTopic{}, missed: map[string]int{}, knows: map[string]bool{}}, nil
}

// A topicGuest is a Broker with the least that topics need: no limits, and one lock for all. Publishing to a topic in topicFaults
// fails. It notes how topics were closed.
type topicGuest struct {
	*memory.Broker

	mu     sync.Mutex
	topics map[string]*guestTopic
	missed map[string]int  // by producer address
	knows  map[string]bool // the producer addresses of channels that know topics
	report func([]broker.TopicEvent)
	closed bool
}

type guestTopic struct {
	members []string
	kept    []*broker.Message
	keep    broker.Keep
	end     *broker.Message
}

// topicFaults has the errors of calls for topics with these names.
var topicFaults = map[string]error{
	"memory": broker.ErrMemoryLimit, "storage": broker.ErrStorage, "unknown": broker.ErrOutcomeUnknown,
	"store": broker.ErrUnavailable, "fault": errors.New("a secret of the machine"),
}

// closedTopics receives the name of each topic that was closed, with how, and " late" if the Broker was closed before.
var closedTopics = make(chan string, 100)

func (b *topicGuest) topic(name string) *guestTopic {
	if b.topics[name] == nil {
		b.topics[name] = new(guestTopic)
	}
	return b.topics[name]
}

func (b *topicGuest) CreateMember(ctx context.Context, agent string, joins []broker.Join, l broker.Limits) (broker.Addresses, error) {
	if len(joins) > l.MaxTopics {
		return broker.Addresses{}, broker.ErrTopicLimit
	}
	addresses, err := b.Create(ctx, agent, l)
	if err != nil {
		return addresses, err
	}
	b.mu.Lock()
	b.knows[addresses.Producer] = true
	b.mu.Unlock()
	for _, join := range joins {
		if err := b.Join(ctx, addresses.Producer, join, l); err != nil {
			return addresses, errors.Join(err, b.Delete(ctx, addresses.Producer))
		}
	}
	return addresses, nil
}

func (b *topicGuest) Join(ctx context.Context, producer string, join broker.Join, l broker.Limits) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if info, err := b.Find(ctx, producer); err != nil || info.Producer != producer {
		return broker.ErrNotFound
	}
	joined := 0
	for _, t := range b.topics {
		if slices.Contains(t.members, producer) {
			joined++
		}
	}
	t := b.topic(join.Topic)
	if slices.Contains(t.members, producer) {
		return nil
	}
	if joined >= l.MaxTopics {
		return broker.ErrTopicLimit
	}
	t.members = append(t.members, producer)
	if b.report != nil && len(t.members) == 1 {
		b.report([]broker.TopicEvent{{Topic: join.Topic, Members: 1}})
	}
	kept := t.kept
	if join.Last != broker.LastAll {
		kept = kept[max(0, len(kept)-join.Last):]
	}
	if t.end != nil && join.Last != 0 {
		kept = append(slices.Clone(kept), t.end)
	}
	for _, m := range kept {
		if err := b.Publish(ctx, producer, m, l); err != nil {
			return err
		}
	}
	return nil
}

func (b *topicGuest) Leave(ctx context.Context, producer, topic string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if info, err := b.Find(ctx, producer); err != nil || info.Producer != producer {
		return broker.ErrNotFound
	}
	t := b.topic(topic)
	n := len(t.members)
	t.members = slices.DeleteFunc(t.members, func(other string) bool { return other == producer })
	if b.report != nil && n == 1 && len(t.members) == 0 {
		b.report([]broker.TopicEvent{{Topic: topic}})
	}
	return nil
}

func (b *topicGuest) KeepTopic(_ context.Context, topic string, k broker.Keep, _ broker.Limits) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.topic(topic).keep = k
	return nil
}

func (b *topicGuest) PublishTopic(ctx context.Context, topic string, m *broker.Message, full broker.WhenFull, l broker.Limits) (broker.Published, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if topic == "panic" {
		panic("the guest panics in PublishTopic")
	}
	if err := topicFaults[topic]; err != nil {
		return broker.Published{}, err
	}
	t := b.topic(topic)
	if t.end != nil {
		return broker.Published{}, broker.ErrTopicClosed
	}
	if t.keep.Bytes > 0 {
		t.kept = append(t.kept, m)
	}
	if full != broker.FullHold {
		l.Hold = 0
	}
	p := broker.Published{Members: len(t.members)}
	for _, producer := range t.members {
		message := m
		if b.knows[producer] {
			message = m.Missed(b.missed[producer])
		}
		switch err := b.Publish(ctx, producer, message, l); {
		case err == nil:
			p.Accepted++
			b.missed[producer] = 0
		case errors.Is(err, broker.ErrTimeout):
			p.Full++
			b.missed[producer]++
			if full == broker.FullDelete {
				_ = b.Delete(ctx, producer)
			}
		}
	}
	return p, nil
}

func (b *topicGuest) CloseTopic(ctx context.Context, topic string, end *broker.Message, l broker.Limits) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := topicFaults[topic]; err != nil {
		return err
	}
	t := b.topic(topic)
	if t.end != nil {
		return nil
	}
	t.end = end
	note := topic + " " + end.End()
	if b.closed {
		note += " late"
	}
	closedTopics <- note
	l.Buffer++
	for _, producer := range t.members {
		if b.knows[producer] {
			_ = b.Publish(ctx, producer, end, l)
		}
	}
	return ctx.Err()
}

func (b *topicGuest) Topic(ctx context.Context, topic string) (broker.TopicInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.topic(topic)
	info := broker.TopicInfo{Name: topic, Members: len(t.members), Kept: len(t.kept), Keep: t.keep}
	for _, producer := range t.members {
		if state, err := b.State(ctx, producer); err == nil && state.Connected {
			info.Connected++
		}
	}
	if t.end != nil {
		info.Closed = t.end.End()
	}
	return info, nil
}

func (b *topicGuest) ListTopics(ctx context.Context, o broker.TopicListOptions) (page broker.TopicPage, err error) {
	b.mu.Lock()
	var names []string
	for name, t := range b.topics {
		if name > o.After && strings.HasPrefix(name, o.Prefix) && len(t.members) >= o.MinMembers {
			names = append(names, name)
		}
	}
	b.mu.Unlock()
	slices.Sort(names)
	if len(names) > o.Limit {
		names = names[:o.Limit]
		page.Next = names[o.Limit-1]
	}
	for _, name := range names {
		info, err := b.Topic(ctx, name)
		if err != nil {
			return page, err
		}
		page.Topics = append(page.Topics, info)
	}
	return page, nil
}

func (b *topicGuest) OnTopics(report func([]broker.TopicEvent)) { b.report = report }

func (b *topicGuest) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.Broker.Close()
}

var (
	_ broker.Topics      = (*topicGuest)(nil)
	_ broker.TopicSource = (*topicGuest)(nil)
)
