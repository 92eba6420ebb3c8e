package memory

import (
	"context"
	"runtime"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A walk brings a message to all members of a topic.
type walk struct {
	broker *Broker
	topic  *topic
	number uint64
	m      *broker.Message
	full   broker.WhenFull
	limits broker.Limits
	join   *join // nil unless the message is appended

	result  broker.Published
	waiters []*waiter // for members without room, with FullHold
	group   waitGroup
	delete  []*channel // members without room, with FullDelete
	err     error      // of the journal
}

// PublishTopic implements [broker.Topics].
func (b *Broker) PublishTopic(
	ctx context.Context, name string, m *broker.Message, full broker.WhenFull, l broker.Limits,
) (broker.Published, error) {
	w := &walk{broker: b, m: m, full: full, limits: l, group: waitGroup{done: make(chan struct{})}}
	if m.Merge() == broker.MergeAppend {
		w.join = new(join)
	}
	w.group.remaining.Store(1) // this call
	err := w.take(ctx, name, func(t *topic) error {
		switch {
		case t.end != nil:
			return broker.ErrTopicClosed
		case !b.budget.hasRoom(l.MaxMemory):
			return broker.ErrMemoryLimit
		}
		t.lastUsed = b.now()
		t.remember(b, m, &l)
		return nil
	})
	if err != nil {
		return broker.Published{}, err
	}
	b.topics.published.Add(1)
	w.members(w.offer)
	w.finish()
	return w.result, w.settle(ctx)
}

// CloseTopic implements [broker.Topics].
func (b *Broker) CloseTopic(ctx context.Context, name string, end *broker.Message, l broker.Limits) error {
	w := &walk{broker: b, m: end, limits: l}
	err := w.take(ctx, name, func(t *topic) error {
		if t.end != nil {
			return broker.ErrTopicClosed
		}
		t.end, t.lastUsed = end, b.now()
		return nil
	})
	switch {
	case err == broker.ErrTopicClosed: //nolint:errorlint // our own
		return nil
	case err != nil:
		return err
	}
	w.members(func(c *channel) {
		if c.knowsTopics() {
			w.err = c.putOutside(end, &w.limits, nil)
		}
	})
	w.finish()
	return w.err
}

// take waits for the walk's turn. Then it calls begin with the topic's lock held, unless that fails the walk has begun, and the
// caller must call finish.
func (w *walk) take(ctx context.Context, name string, begin func(t *topic) error) error {
	if w.broker.isClosed() {
		return broker.ErrClosed
	}
	for {
		var found *topic
		took := false
		w.broker.withTopic(name, &w.limits, func(t *topic) {
			found = t
			select {
			case t.turn <- struct{}{}: // so that a topic without members stays
				took = true
			default:
			}
		})
		if !took {
			select {
			case found.turn <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			case <-w.broker.stop:
				return broker.ErrClosed
			}
		}
		var err error
		alive := w.broker.tryTopic(found, func(t *topic) {
			if err = begin(t); err == nil {
				t.walk++
				w.topic, w.number = t, t.walk
			}
		})
		switch {
		case !alive: // and removed while the walk waited for its turn
			<-found.turn
			continue
		case err != nil:
			w.topic = found
			w.finish()
		}
		return err
	}
}

// finish gives the turn to the next walk.
func (w *walk) finish() {
	<-w.topic.turn
	w.broker.tryTopic(w.topic, func(*topic) {})
}

// yieldEvery is how long a walk goes on before it lets others run.
const yieldEvery = 100 * time.Microsecond

// members calls f with each member and its lock held.
func (w *walk) members(f func(*channel)) {
	part := make([]slot, 0, blockSize)
	begun := time.Now()
	for i := 0; !w.broker.isClosed(); i++ {
		w.topic.mu.Lock()
		if i >= len(w.topic.blocks) {
			w.topic.mu.Unlock()
			return
		}
		part = append(part[:0], w.topic.blocks[i].slots...)
		w.topic.mu.Unlock()
		for _, s := range part {
			if s.channel != nil && s.joined < w.number {
				w.member(s, f)
			}
			if time.Since(begun) > yieldEvery {
				runtime.Gosched()
				begun = time.Now()
			}
		}
	}
}

// member calls f with a member, if it still is the one that the slot had.
func (w *walk) member(s slot, f func(*channel)) {
	s.channel.mu.Lock()
	defer s.channel.mu.Unlock()
	if s.channel.closed != open || s.channel.sealed.Load() {
		return
	}
	if m := s.channel.membership(w.topic); m != nil && m.joined == uint32(s.joined) { //nolint:gosec // compared with its like
		f(s.channel)
	}
}

// offer writes the message to a member. The channel's lock is held.
func (w *walk) offer(c *channel) {
	w.result.Members++
	if c.isDuplicate(w.m) {
		c.counters.duplicates.Add(1)
		w.result.Accepted++
		return
	}
	if taken, err := w.put(c); taken || err != nil {
		if w.err = err; taken {
			w.result.Accepted++
		}
		return
	}
	switch w.full {
	case broker.FullHold:
		if w.limits.Hold > 0 && c.broker.budget.hasHeldRoom(w.limits.MaxMemory) {
			w.hold(c)
			return
		}
	case broker.FullDelete:
		w.delete = append(w.delete, c)
		w.result.Full++
		return
	case broker.FullMiss:
	}
	w.result.Full++
	c.miss()
}

// put puts the message into a member's queue if there is room, and reports whether it did. The memory for the message was there
// when the walk began, and all members share it, unless it is merged. The channel's lock is held.
func (w *walk) put(c *channel) (taken bool, err error) {
	switch {
	case c.held.first != nil:
		return false, nil
	case c.merges(w.m, &w.limits):
		if !w.broker.budget.hasRoom(w.limits.MaxMemory) {
			return false, nil
		}
		err = c.merge(w.m, w.join)
	case c.counted() < w.limits.Buffer:
		err = c.put(w.m, nil)
	default:
		return false, nil
	}
	return err == nil, err
}

// hold makes the message wait for room in a channel. The lock of the channel is held.
func (w *walk) hold(c *channel) {
	waiting := &waiter{channel: c, ms: []*broker.Message{w.m}, limits: w.limits, owner: &w.group}
	w.waiters = append(w.waiters, waiting)
	w.group.remaining.Add(1)
	c.enqueue(waiting)
}

// settle waits for members without room, or deletes them.
func (w *walk) settle(ctx context.Context) error {
	for _, c := range w.delete {
		w.broker.remove(c, broker.EndDeleted)
	}
	w.group.finished()
	if err := w.group.wait(ctx, w.limits.Hold); err != nil {
		for _, waiting := range w.waiters {
			waiting.channel.withdraw(waiting, err)
		}
	}
	for _, waited := range w.waiters {
		switch waited.err {
		case nil:
			w.result.Accepted++
		case broker.ErrNotFound, broker.ErrClosed:
		default:
			w.result.Full++
			waited.channel.mu.Lock()
			waited.channel.miss()
			waited.channel.mu.Unlock()
		}
	}
	return w.err
}
