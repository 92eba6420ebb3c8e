package disk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A load uses a Broker at random, in all ways that leave records, and tells what it does. One goroutine uses it.
type load struct {
	broker broker.Topics
	random *rand.Rand
	tell   func(a act, done bool, consumer string, n int)
	next   *int // the number of the next message

	channels []broker.Addresses
	topics   []*topicLoad
	limits   broker.Limits
	large    int // the size of large messages
}

func newLoad(b broker.Topics, seed uint64, next *int, tell func(act, bool, string, int)) *load {
	return &load{
		broker: b, random: rand.New(rand.NewPCG(seed, 1)), tell: tell, next: next, large: 3000,
		limits: broker.Limits{
			Buffer: 8, InFlight: 8, TTL: time.Hour, MaxChannels: 1000, MaxMemory: 1 << 30, MaxChannelsPerClient: 1000, Client: "client",
			MaxTopics: 1000,
		},
	}
}

// step does one thing. It returns false once the Broker is closed.
func (l *load) step(ctx context.Context) bool {
	switch n := l.random.IntN(30); {
	case n >= 20 && len(l.channels) >= 3:
		return l.topicStep(ctx)
	case len(l.channels) < 3 || n == 0:
		return l.create(ctx)
	case n == 1 && len(l.channels) > 6:
		return l.delete(ctx)
	case n < 12:
		return l.publish(ctx)
	case n == 12:
		return l.batch(ctx)
	default:
		return l.read(ctx)
	}
}

func (l *load) create(ctx context.Context) bool {
	a, err := l.broker.Create(ctx, "agent", l.limits)
	if err == nil {
		l.tell(creates, true, a.Consumer, 0)
		l.channels = append(l.channels, a)
	}
	return !errors.Is(err, broker.ErrClosed)
}

func (l *load) delete(ctx context.Context) bool {
	i := l.random.IntN(len(l.channels))
	a := l.channels[i]
	l.tell(deletes, false, a.Consumer, 0)
	err := l.broker.Delete(ctx, a.Producer)
	switch {
	case errors.Is(err, broker.ErrStorage):
		return true // nothing has happened
	case err == nil:
		l.tell(deletes, true, a.Consumer, 0)
	}
	l.channels = append(l.channels[:i], l.channels[i+1:]...)
	l.deleted(a)
	return !errors.Is(err, broker.ErrClosed)
}

// message makes the next message. Its body begins with its number.
func (l *load) message() (m *broker.Message, n int) {
	*l.next++
	n = *l.next
	body, key := fmt.Appendf(nil, "%8d", 10_000_000+n), ""
	if l.random.IntN(4) == 0 {
		key = fmt.Sprintf("key %d", n)
		key = strings.ReplaceAll(key, " ", "-")
	}
	if l.random.IntN(8) == 0 {
		body = fmt.Appendf(body, ".%0*d", l.large, 0)
	}
	m, err := broker.NewMessage("stream", body, key)
	if err != nil {
		panic(err)
	}
	return m, 10_000_000 + n
}

func (l *load) publish(ctx context.Context) bool {
	a := l.channels[l.random.IntN(len(l.channels))]
	m, n := l.message()
	l.tell(writes, false, a.Consumer, n)
	err := l.broker.Publish(ctx, a.Producer, m, l.limits)
	if err == nil {
		l.tell(writes, true, a.Consumer, n)
	}
	return !errors.Is(err, broker.ErrClosed)
}

func (l *load) batch(ctx context.Context) bool {
	var ms []*broker.Message
	var numbers []int
	for range 1 + l.random.IntN(3) {
		m, n := l.message()
		ms, numbers = append(ms, m), append(numbers, n)
	}
	var producers []string
	for _, a := range l.channels {
		producers = append(producers, a.Producer)
		for _, n := range numbers {
			l.tell(writes, false, a.Consumer, n)
		}
	}
	closed := false
	for i, o := range l.broker.PublishBatch(ctx, producers, ms, l.limits) {
		if closed = errors.Is(o.Err, broker.ErrClosed); errors.Is(o.Err, broker.ErrOutcomeUnknown) {
			continue
		}
		for _, n := range numbers[:o.Accepted] {
			l.tell(writes, true, l.channels[i].Consumer, n)
		}
	}
	return !closed
}

func (l *load) read(ctx context.Context) bool {
	a := l.channels[l.random.IntN(len(l.channels))]
	s, err := l.broker.Subscribe(ctx, a.Consumer, broker.SubscribeOptions{Limits: l.limits, Follow: true, TakeOver: true})
	if err != nil {
		return !errors.Is(err, broker.ErrClosed)
	}
	ms, _ := s.Take(nil, 2000)
	if len(ms) > 0 && l.random.IntN(2) == 0 {
		m := ms[l.random.IntN(len(ms))]
		n := numbersOf([]*broker.Message{m})
		if len(n) == 0 {
			s.End(broker.EndFault)
			return true // the end of a topic
		}
		l.tell(settles, false, a.Consumer, n[0])
		if s.Settle(m.ID()) {
			l.tell(settles, true, a.Consumer, n[0])
		}
	}
	s.End(broker.End(l.random.IntN(2)))
	return true
}
