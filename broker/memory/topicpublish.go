package memory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
	"github.com/caddy-megaphone/megaphone/internal/netturn"
)

// A walk brings a message to all members of a topic.
type walk struct {
	broker *Broker
	m      *broker.Message
	full   broker.WhenFull
	limits broker.Limits

	topic  *topic
	number uint64
	err    error // of a journal
	woken  int   // readers that pace does not know of yet

	result  broker.Published
	kept    bool            // by the topic
	batches []journal.Batch // one, if a journal may have the message once for all
	join    *join           // nil unless the message is appended
	group   waitGroup       // of waiters
	waiters []*waiter       // for members without room, with FullHold
	delete  []*channel      // members without room, with FullDelete
}

// maxWaitingMembers is how many members of topics may wait for room at once, other producers included. Each takes some 400 bytes.
const maxWaitingMembers = 100_000

// errLeft is the error of a message that waited for room in a member which has left the topic.
var errLeft = errors.New("the channel has left the topic")

// PublishTopic implements [broker.Topics].
func (b *Broker) PublishTopic(
	ctx context.Context, name string, m *broker.Message, full broker.WhenFull, l broker.Limits,
) (broker.Published, error) {
	w := &walk{broker: b, m: m, full: full, limits: l, group: waitGroup{done: make(chan struct{})}}
	if m.Merge() == broker.MergeAppend {
		w.join = new(join)
	}
	w.group.remaining.Store(1) // this call
	err := w.run(ctx, name, func(t *topic) error {
		switch {
		case t.end != nil:
			return broker.ErrTopicClosed
		case !b.budget.hasRoom(l.MaxMemory):
			return broker.ErrMemoryLimit
		}
		if b.journal != nil { // a member that misses the message must know that after a restart
			if err := b.journal.Takes(); err != nil {
				return err
			}
		}
		return w.remember(t)
	}, w.offer)
	if err != nil {
		return broker.Published{}, err
	}
	b.topics.published.Add(1)
	for _, c := range w.delete {
		b.remove(c, broker.EndDeleted)
	}
	w.wait(ctx)
	if err := w.failure(); err != nil {
		return broker.Published{}, err
	}
	return w.result, b.barrier(context.WithoutCancel(ctx))
}

// remember makes the topic keep the message. The lock of the topic is held.
func (w *walk) remember(t *topic) error {
	if err := t.applyDefault(&w.limits); err != nil {
		return err
	}
	w.kept = t.keeps(w.m)
	if w.broker.journal != nil && (w.kept || t.members.count > 1) {
		w.batches = make([]journal.Batch, 1)
	}
	return t.remember(w.m, &w.limits, w.batch())
}

// batch returns what the journal needs for the message.
func (w *walk) batch() *journal.Batch {
	if w.batches == nil {
		return nil
	}
	return &w.batches[0]
}

// failure returns the error of a publish of which the journal has refused a part.
func (w *walk) failure() error {
	if w.err != nil && (w.kept || w.result.Accepted > 0) {
		// It must not look like an error after which nobody has the message.
		return fmt.Errorf("%w: not all members have it: %s", broker.ErrOutcomeUnknown, w.err.Error())
	}
	return w.err
}

// CloseTopic implements [broker.Topics].
func (b *Broker) CloseTopic(ctx context.Context, name string, end *broker.Message, l broker.Limits) error {
	w := &walk{broker: b, m: end, limits: l}
	err := w.run(ctx, name, func(t *topic) error {
		if t.end != nil {
			return broker.ErrTopicClosed
		}
		if err := t.applyDefault(&l); err != nil {
			return err
		}
		if b.journal != nil {
			w.batches = make([]journal.Batch, 1)
		}
		t.end, t.lastPublish = end, b.now()
		b.budget.reserve(end)
		return nil
	}, w.close)
	if err != nil && !errors.Is(err, broker.ErrTopicClosed) {
		return err
	}
	if w.err != nil {
		return w.err
	}
	return b.barrier(context.WithoutCancel(ctx))
}

// run waits for the walk's turn. Then it calls begin with the topic's lock held, and if that does not fail, visit with each member
// and its lock held.
func (w *walk) run(ctx context.Context, name string, begin func(*topic) error, visit func(*channel)) error {
	for !w.broker.isClosed() {
		if w.limits.TopicKeep.Bytes <= 0 && w.broker.findTopic(name) == nil {
			return nil // it has neither members nor a memory, and would not get one
		}
		t := w.broker.ensureTopic(name, &w.limits)
		select {
		case t.turn <- struct{}{}:
		case <-ctx.Done():
			t.with(func(*topic) {})
			return ctx.Err()
		case <-w.broker.stop:
			return broker.ErrClosed
		}
		if done, err := w.take(t, begin, visit); done {
			return err
		}
	}
	return broker.ErrClosed
}

// take takes the walk's turn, and gives it up. It returns false if the topic does not exist any more.
func (w *walk) take(t *topic, begin func(*topic) error, visit func(*channel)) (done bool, err error) {
	defer func() {
		<-t.turn
		t.with(func(*topic) {})
	}()
	exists := t.with(func(*topic) {
		if err = begin(t); err == nil {
			t.walks++
			w.topic, w.number = t, t.walks
		}
	})
	if exists && err == nil {
		if err = w.members(visit); w.m == t.end { // which only the walk whose turn it is changes
			t.with(w.closed)
		}
	}
	return exists, err
}

// closed notes that the topic is closed, now that its members have the end. If the journal has failed, the topic is open again, so
// that closing it again brings the end to those who lack it. The lock of the topic is held.
func (w *walk) closed(t *topic) {
	if w.err == nil && (t.noted || t.memory.keep.Bytes > 0) {
		w.err = t.note()
	}
	if w.err != nil {
		w.broker.budget.release(t.end)
		t.end = nil
	}
}

const (
	// A walk lets others run when it has woken some readers, and when it has gone on for some time. It looks at the clock for every
	// few members. The readers write to their clients first, and then the network has its turn: so a message to another channel
	// waits for a few readers, not for all of them.
	walkReaders = 8
	walkTime    = 100 * time.Microsecond
	walkMembers = 16
)

// yieldReaders is how many readers every other call wakes before it lets them run, and the network. It is not lower because what
// several calls write to the same channels should leave together.
const yieldReaders = 128

// members calls visit with each member and its lock held.
func (w *walk) members(visit func(*channel)) error {
	var few [8]slot // most topics are small
	slots, visited, pace := few[:0], 0, netturn.Every(walkReaders)
	for i := 0; !w.broker.isClosed(); i++ {
		w.topic.mu.Lock()
		var more bool
		slots, more = w.topic.members.block(slots[:0], i)
		w.topic.mu.Unlock()
		if !more {
			return nil
		}
		for _, s := range slots {
			if s.channel == nil || s.joined >= w.number {
				continue
			}
			w.member(s, visit)
			pace.Woke(w.woken)
			w.woken = 0
			if visited++; visited%walkMembers == 0 {
				pace.Worked(walkTime)
			}
		}
	}
	return broker.ErrClosed
}

// member calls visit with a member, if it still is the one that the slot had.
func (w *walk) member(s slot, visit func(*channel)) {
	c := s.channel
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != open {
		return
	}
	if m := c.membership(w.topic); m != nil && m.joined == uint32(s.joined) { //nolint:gosec // compared with its like
		visit(c)
	}
}

// offer writes the message to a member. The channel's lock is held.
func (w *walk) offer(c *channel) {
	if c.sealed.Load() {
		if !c.isDuplicate(w.m) {
			c.noteMiss() // it says so if the drain is undone or an end comes
		}
		return
	}
	w.result.Members++
	if c.isDuplicate(w.m) {
		c.counters.duplicates.Add(1)
		w.result.Accepted++
		return
	}
	taken, err := w.put(c)
	switch {
	case err != nil:
		w.err = err
		c.noteGap()
	case taken:
		if w.result.Accepted++; c.reader != nil {
			w.woken++
		}
	case w.full == broker.FullHold && w.limits.Hold > 0 && w.mayHold():
		w.group.remaining.Add(1)
		w.waiters = append(w.waiters, &waiter{
			channel: c, ms: []*broker.Message{w.m}, limits: w.limits, topic: w.topic, owner: &w.group, batches: w.batches,
		})
		c.enqueue(w.waiters[len(w.waiters)-1])
	case w.m.Keyed() && c.waitsFor(w.m.ID()):
		w.result.Full++ // the publish that waits tells what becomes of it
	default:
		w.result.Full++
		c.miss()
		if w.full == broker.FullDelete {
			w.delete = append(w.delete, c)
		}
	}
}

// put puts the message into a member's queue if there is room, and reports whether it did. There was memory for the message when
// the walk began, and all members share it, unless it is merged. The channel's lock is held.
func (w *walk) put(c *channel) (taken bool, err error) {
	if err := c.admitEnd(); err != nil {
		return false, err
	}
	switch {
	case c.held.first != nil:
		return false, nil
	case c.merges(w.m, &w.limits):
		if !w.broker.budget.hasRoom(w.limits.MaxMemory) {
			return false, nil
		}
		err = c.merge(w.m, w.join)
	case c.counted() < w.limits.Buffer:
		err = c.put(w.m, w.batch())
	default:
		return false, nil
	}
	return err == nil, err
}

// mayHold reports whether another member may wait for room.
func (w *walk) mayHold() bool {
	return w.broker.budget.hasHeldRoom(w.limits.MaxMemory) && w.broker.waiters.Load() < maxWaitingMembers
}

// close brings the end of the topic to a member, even if that is sealed: closing is acknowledged for all members. The channel's lock is
// held.
func (w *walk) close(c *channel) {
	switch {
	case !c.knowsTopics:
	case c.waitsOf(w.topic):
		if err := c.journalEndWaits(w.topic); err != nil {
			w.err = err
			return
		}
		c.enqueue(&waiter{
			channel: c, ms: []*broker.Message{w.m}, limits: w.limits, topic: w.topic, owner: nobody{}, outside: true,
		})
	default:
		if err := c.putOutside(w.m, &w.limits, w.batch()); err != nil {
			w.err = err
		}
	}
}

// wait waits for members without room.
func (w *walk) wait(ctx context.Context) {
	w.group.finished()
	if err := w.group.wait(ctx, w.limits.Hold); err != nil {
		for _, waiting := range w.waiters {
			waiting.channel.withdraw(waiting, err)
		}
	}
	for _, waited := range w.waiters {
		switch {
		case waited.err == nil:
			w.result.Accepted++
		case !isGone(waited.err):
			w.result.Full++
		}
	}
}

// isGone reports whether a message waited in vain because its channel was deleted or has left the topic.
func isGone(err error) bool {
	return errors.Is(err, errLeft) || errors.Is(err, broker.ErrNotFound) || errors.Is(err, broker.ErrClosed)
}

// waitsOf reports whether a message of a topic waits for room. The lock is held.
func (c *channel) waitsOf(t *topic) bool {
	return c.held.any(func(w *waiter) bool { return w.topic == t })
}

// waitsFor reports whether a message of a topic with this id waits for room. The lock is held.
func (c *channel) waitsFor(id broker.EventID) bool {
	return c.held.any(func(w *waiter) bool { return w.topic != nil && w.ms[0].ID() == id })
}

// nobody owns a waiter for which no call waits: the end of a topic. It needs no room, so it waits only for those before it, and for the
// journal if that fails. The journal knows that it waits.
type nobody struct{}

func (nobody) finished() {}
