package disk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A topicLoad is one topic of a load.
type topicLoad struct {
	number  int
	members []broker.Addresses
	kept    []int // the numbers of messages that were published
	begun   int   // publishes
}

// forget leaves a topic alone of which a call has failed.
func (l *load) forget(t *topicLoad, err error) (more bool) {
	l.topics = slices.DeleteFunc(l.topics, func(other *topicLoad) bool { return other == t })
	return !errors.Is(err, broker.ErrClosed)
}

func topicName(number int) string { return fmt.Sprint("topic-", number) }

// trimmed is how many bytes a topic keeps that keeps few of its messages.
const trimmed = 1500

// trims reports whether the topic keeps few of its messages. Otherwise it keeps all.
func (t *topicLoad) trims() bool { return t.number%2 == 1 }

// topicStep does one thing with topics. A topic that has had many messages is closed, and there is another one.
func (l *load) topicStep(ctx context.Context) bool {
	if len(l.topics) < 2 {
		return l.keepTopic(ctx)
	}
	i := l.random.IntN(len(l.topics))
	t := l.topics[i]
	if t.begun > 8 {
		l.topics = slices.Delete(l.topics, i, i+1)
		return l.closeTopic(ctx, t)
	}
	switch n := l.random.IntN(10); {
	case n < 2 || len(t.members) == 0:
		return l.join(ctx, t)
	case n == 2:
		return l.leave(ctx, t)
	case n == 3:
		return l.createMember(ctx, t)
	default:
		return l.publishTopic(ctx, t, n < 6)
	}
}

func (l *load) keepTopic(ctx context.Context) bool {
	*l.next++
	t := &topicLoad{number: *l.next}
	keep := broker.Keep{Bytes: 1 << 20, TTL: time.Hour}
	if t.trims() {
		keep.Bytes = trimmed
	}
	err := l.broker.KeepTopic(ctx, topicName(t.number), keep, l.limits)
	if err == nil {
		l.topics = append(l.topics, t)
	}
	return !errors.Is(err, broker.ErrClosed)
}

func (l *load) join(ctx context.Context, t *topicLoad) bool {
	a := l.channels[l.random.IntN(len(l.channels))]
	if slices.Contains(t.members, a) {
		return true
	}
	return l.joins(ctx, t, a, 0)
}

// createMember makes a channel and brings it what a topic keeps. Others cannot have that: their messages would have no order.
func (l *load) createMember(ctx context.Context, t *topicLoad) bool {
	if len(l.channels) > 12 {
		return true
	}
	a, err := l.broker.CreateMember(ctx, "agent", nil, l.limits)
	if err != nil {
		return !errors.Is(err, broker.ErrClosed)
	}
	l.tell(creates, true, a.Consumer, 0)
	l.tell(knows, true, a.Consumer, 0)
	l.channels = append(l.channels, a)
	return l.joins(ctx, t, a, broker.LastAll)
}

func (l *load) joins(ctx context.Context, t *topicLoad, a broker.Addresses, last int) bool {
	l.tell(joins, false, a.Consumer, t.number)
	if last != 0 {
		for _, n := range t.kept {
			l.tell(writes, false, a.Consumer, n)
		}
	}
	if err := l.broker.Join(ctx, a.Producer, broker.Join{Topic: topicName(t.number), Last: last}, l.limits); err != nil {
		return l.forget(t, err)
	}
	t.members = append(t.members, a)
	l.tell(joins, true, a.Consumer, t.number)
	if last != 0 && !t.trims() {
		for _, n := range t.kept {
			l.tell(writes, true, a.Consumer, n)
		}
	}
	return true
}

func (l *load) leave(ctx context.Context, t *topicLoad) bool {
	i := l.random.IntN(len(t.members))
	a := t.members[i]
	l.tell(leaves, false, a.Consumer, t.number)
	if err := l.broker.Leave(ctx, a.Producer, topicName(t.number)); err != nil {
		return l.forget(t, err)
	}
	l.tell(leaves, true, a.Consumer, t.number)
	t.members = slices.Delete(t.members, i, i+1)
	return true
}

// publishTopic publishes a message for which all members have room, or none has.
func (l *load) publishTopic(ctx context.Context, t *topicLoad, room bool) bool {
	m, n := l.message()
	t.begun++
	what, limits := writes, l.limits
	if limits.Buffer = 1 << 20; !room {
		what, limits.Buffer = misses, 0
	}
	tell := func(done bool) {
		if !t.trims() || m.Size() <= trimmed {
			l.tell(keeps, done, topicName(t.number), n)
		}
		for _, a := range t.members {
			l.tell(what, done, a.Consumer, n)
		}
	}
	tell(false)
	got, err := l.broker.PublishTopic(ctx, topicName(t.number), m, broker.FullMiss, limits)
	if err != nil {
		return l.forget(t, err)
	}
	want := broker.Published{Members: len(t.members), Accepted: len(t.members)}
	if !room {
		want.Accepted, want.Full = 0, len(t.members)
	}
	if got != want {
		panic(fmt.Sprintf("a publish reports %+v, want %+v", got, want))
	}
	tell(true)
	t.kept = append(t.kept, n)
	return true
}

// closeTopic closes a topic. Every other time, a message of it waits meanwhile for room in the members, in vain, and the end behind it.
func (l *load) closeTopic(ctx context.Context, t *topicLoad) bool {
	end, err := broker.NewEnd("stream", broker.EndDone)
	if err != nil {
		panic(err)
	}
	withdraw := func() {}
	if len(t.members) > 0 && l.random.IntN(2) == 0 {
		withdraw = l.holdMessage(ctx, t)
	}
	l.tell(closes, false, topicName(t.number), 0)
	err = l.broker.CloseTopic(ctx, topicName(t.number), end, l.limits)
	if err == nil {
		l.tell(closes, true, topicName(t.number), 0)
	}
	withdraw()
	return !errors.Is(err, broker.ErrClosed)
}

// holdMessage publishes a message for which no member has room. It returns what withdraws it.
func (l *load) holdMessage(ctx context.Context, t *topicLoad) (withdraw func()) {
	m, n := l.message()
	tell := func(done bool) {
		if !t.trims() || m.Size() <= trimmed {
			l.tell(keeps, done, topicName(t.number), n)
		}
		for _, a := range t.members {
			l.tell(misses, done, a.Consumer, n)
		}
	}
	tell(false)
	ctx, cancel := context.WithCancel(ctx)
	limits, published := l.limits, make(chan error)
	limits.Buffer, limits.Hold = 0, time.Hour
	go func() {
		_, err := l.broker.PublishTopic(ctx, topicName(t.number), m, broker.FullHold, limits)
		published <- err
	}()
	time.Sleep(time.Millisecond) // until it waits, or nearly always
	return func() {
		time.Sleep(time.Duration(l.random.IntN(2)) * time.Millisecond)
		cancel()
		if err := <-published; err == nil {
			tell(true)
		}
	}
}

// deleted forgets a channel's memberships.
func (l *load) deleted(a broker.Addresses) {
	for _, t := range l.topics {
		t.members = slices.DeleteFunc(t.members, func(m broker.Addresses) bool { return m == a })
	}
}
