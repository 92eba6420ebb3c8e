package redis

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
)

var _ interface {
	broker.Topics
	broker.TopicSource
} = (*Broker)(nil)

// checkJoins checks that a new channel may join the topics.
func checkJoins(joins []broker.Join, l *broker.Limits) error {
	names := map[string]bool{}
	for _, j := range joins {
		if names[j.Topic] = true; len(names) > l.MaxTopics {
			return broker.ErrTopicLimit
		}
	}
	return nil
}

// CreateMember implements [broker.Topics]. If a join fails because of Redis, the channel is deleted. If that fails, too, the channel
// expires, and nobody has its addresses.
func (b *Broker) CreateMember(ctx context.Context, agent string, topics []broker.Join, l broker.Limits) (broker.Addresses, error) {
	if err := checkJoins(topics, &l); err != nil {
		return broker.Addresses{}, err
	}
	x, err := b.create(ctx, agent, true, &l)
	if err != nil {
		return broker.Addresses{}, err
	}
	for _, j := range topics {
		if err := b.join(x, j, &l); err != nil {
			_ = b.delete(x)
			return broker.Addresses{}, err
		}
	}
	return b.codec.Load().addresses(x, agent), nil
}

// Join implements [broker.Topics].
func (b *Broker) Join(ctx context.Context, producer string, j broker.Join, l broker.Limits) error {
	x, err := b.producerID(ctx, producer, 0)
	if err != nil {
		return err
	}
	return b.join(x, j, &l)
}

// maxJoins is how often a join begins again because publishes have passed it.
const maxJoins = 100

// errJoin is the error of a join that would not end.
var errJoin = fmt.Errorf("%w: redis: the topic was published to again and again while the channel joined", broker.ErrUnavailable)

// join makes a channel a member. In a cluster the topic's home may be another scope than the channel's. Then the join learns there
// what is kept, and which walk was the last. If a later walk has visited the channel's scope meanwhile, it begins again. So what is
// kept and what is published meet without a gap.
func (b *Broker) join(x channelID, j broker.Join, l *broker.Limits) error {
	j.Topic = strings.Clone(j.Topic) // a call may outlive its request
	scope := b.keys.scopeOf(x.partition())
	var id [8]byte
	for range maxJoins {
		_, _ = rand.Read(id[:]) // never fails, crashes instead
		again, err := b.tryJoin(x, scope, rueidis.BinaryString(id[:]), j, l)
		if !again {
			return err
		}
	}
	return errJoin
}

// tryJoin joins once. again tells that it has to begin again.
func (b *Broker) tryJoin(x channelID, scope int, id string, j broker.Join, l *broker.Limits) (again bool, err error) {
	args := b.joinArgs(scope, id, j, l)
	id, member, again, err := b.runJoin(x, args)
	if member || again || err != nil {
		return again, err
	}
	known, err := b.register(scope, id, j, l)
	if err != nil {
		return false, err
	}
	_, member, again, err = b.runJoin(x, append(append(args[:len(args)-1], id), known...))
	if member {
		b.tellNow(scope)
	}
	return again, err
}

// joinArgs returns the arguments of the first call of lua/join.lua. id names the topic's record in the scope if there is none.
func (b *Broker) joinArgs(scope int, id string, j broker.Join, l *broker.Limits) []string {
	home := b.keys.home(j.Topic)
	numbers := packer{}.put(4, int64(l.MaxTopics)).put(4, lastOf(j)).put(7, max(0, l.TopicKeep.Bytes)).
		put(5, max(0, ms(l.TopicKeep.TTL))).put(7, b.ledger.elsewhere(scope).bytes)
	args := []string{
		b.keys.pushPrefix(scope), j.Topic, rueidis.BinaryString(numbers), b.keys.scopes[home], text(int64(scope)), id,
	}
	if home != scope {
		args = append(args, "")
	}
	return args
}

// register tells the home of a topic of the topic's record in another scope. It returns what lua/join.lua has to know of the home.
func (b *Broker) register(scope int, id string, j broker.Join, l *broker.Limits) (known []string, err error) {
	home := b.keys.home(j.Topic)
	numbers := packer{}.put(4, lastOf(j)).put(7, max(0, l.TopicKeep.Bytes)).put(5, max(0, ms(l.TopicKeep.TTL)))
	values, err := b.run(b.background, registerScript, []string{b.keys.counters(home)}, b.keys.pushPrefix(home), j.Topic,
		rueidis.BinaryString(numbers), text(int64(scope)), id).ToArray()
	if err != nil {
		return nil, b.failed(err, true)
	}
	known = []string{text(integer(values, 0))}
	for _, value := range values[1:] {
		s, err := value.ToString()
		if err != nil {
			return nil, errData
		}
		known = append(known, s)
	}
	return known, nil
}

// lastOf returns how many kept messages a join asks for.
func lastOf(j broker.Join) int64 {
	const all = 1<<32 - 1
	if j.Last == broker.LastAll {
		return all
	}
	return max(0, min(int64(j.Last), all))
}

// runJoin runs lua/join.lua. It returns the id of the topic's record, and whether the channel is a member now.
func (b *Broker) runJoin(x channelID, args []string) (id string, member, again bool, err error) {
	keys, _ := b.keys.channelKeys(x)
	reply := b.run(b.background, joinScript, keys, args...)
	if code, err := reply.AsInt64(); err == nil {
		switch code {
		case -3:
			return "", false, false, broker.ErrTopicLimit
		case -4:
			return "", false, true, nil
		}
		return "", false, false, b.gone()
	}
	values, err := reply.ToArray()
	switch {
	case err != nil:
		return "", false, false, b.failed(err, true)
	case len(values) < 5:
		return "", false, false, errData
	}
	id, _ = values[0].ToString()
	b.stats.accepted.Add(uint64(integer(values, 2))) //nolint:gosec // not negative
	b.stats.countMerged(int(integer(values, 3)), int(integer(values, 4)))
	return id, integer(values, 1) != 0, false, nil
}

// Leave implements [broker.Topics].
func (b *Broker) Leave(ctx context.Context, producer, topic string) error {
	x, err := b.producerID(ctx, producer, 0)
	if err != nil {
		return err
	}
	keys, prefix := b.keys.channelKeys(x)
	code, err := b.run(b.background, leaveScript, keys, prefix, strings.Clone(topic), b.bytesElsewhere(x)).AsInt64()
	switch {
	case err != nil:
		return b.failed(err, true)
	case code == -2:
		return b.gone()
	case code == 1:
		b.memoryFreed()
	}
	b.tellNow(b.keys.scopeOf(x.partition()))
	return nil
}

// KeepTopic implements [broker.Topics].
func (b *Broker) KeepTopic(ctx context.Context, topic string, k broker.Keep, l broker.Limits) error {
	if err := b.ready(ctx); err != nil {
		return err
	}
	home := b.keys.home(topic)
	numbers := packer{}.put(7, max(0, k.Bytes)).put(5, max(0, ms(k.TTL))).put(7, min(l.MaxMemory, maxMemory)).
		put(7, b.ledger.elsewhere(home).bytes)
	code, err := b.run(b.background, keepScript, []string{b.keys.counters(home)}, b.keys.pushPrefix(home), strings.Clone(topic),
		rueidis.BinaryString(numbers)).AsInt64()
	switch {
	case err != nil:
		return b.failed(err, true)
	case code == 1:
		return broker.ErrMemoryLimit
	}
	return nil
}
