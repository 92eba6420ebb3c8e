package memory

import (
	linked "container/list"
	"sync"
	"sync/atomic"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A budget counts the bytes of all messages that a Broker's channels hold. A message that many channels hold counts
// once. The budget also has the channels whose producers wait for memory, in the order in which they get what is freed.
//
// Messages that wait for room count separately from buffered ones, and may take a sixteenth of the limit. So held
// producers do not use up the memory that readers free.
type budget struct {
	buffered, held atomic.Int64 // bytes

	// waiting is how many channels wait. It can be read without the lock.
	waiting atomic.Int32
	mu      sync.Mutex
	// queues has the turns of the channels that wait, by the limit that concerns them. There is one queue for each
	// max_memory among the configurations whose producers wait, so one, or two for a while after a reload.
	queues map[int64]*linked.List

	// freed receives a value when memory was freed and channels wait for it.
	freed chan struct{}
}

// A turn is a channel's place among those that wait for memory. The lock of the budget guards the element.
type turn struct {
	channel *channel
	limit   int64           // of the channel's first waiter
	element *linked.Element // in the limit's queue; nil once the turn has come or was given up
}

// hasRoom reports whether a channel may buffer another message. A message may cross the limit, so no message is too
// large for an empty Broker.
func (b *budget) hasRoom(limit int64) bool { return b.buffered.Load() < limit }

// hasHeldRoom reports whether another message may wait for room.
func (b *budget) hasHeldRoom(limit int64) bool { return b.held.Load() < limit/16 }

// reserve counts one more channel that has the message in its queue.
func (b *budget) reserve(m *broker.Message) {
	if m.Uses().Buffered.Add(1) == 1 {
		b.buffered.Add(m.Size())
	}
}

// release undoes reserve. If that frees memory and channels wait for it, it sends on freed.
func (b *budget) release(m *broker.Message) {
	if m.Uses().Buffered.Add(-1) > 0 {
		return
	}
	b.buffered.Add(-m.Size())
	if b.waiting.Load() > 0 {
		b.noteFreed()
	}
}

// noteFreed makes the Broker's goroutine call admitNext.
func (b *budget) noteFreed() {
	select {
	case b.freed <- struct{}{}:
	default:
	}
}

// reserveHeld counts one more channel in which the message waits for room.
func (b *budget) reserveHeld(m *broker.Message) {
	if m.Uses().Held.Add(1) == 1 {
		b.held.Add(m.Size())
	}
}

// releaseHeld undoes reserveHeld.
func (b *budget) releaseHeld(m *broker.Message) {
	if m.Uses().Held.Add(-1) == 0 {
		b.held.Add(-m.Size())
	}
}

// enter makes a channel wait for memory within a limit: behind the others, or before them if it was its turn and others
// took the memory. The caller holds the channel's lock.
func (b *budget) enter(c *channel, limit int64, first bool) *turn {
	t := &turn{channel: c, limit: limit}
	b.mu.Lock()
	defer b.mu.Unlock()
	queue := b.queues[limit]
	if queue == nil {
		queue = linked.New()
		b.queues[limit] = queue
	}
	if first {
		t.element = queue.PushFront(t)
	} else {
		t.element = queue.PushBack(t)
	}
	b.waiting.Add(1)
	if b.hasRoom(limit) { // freed before others could see that the channel waits
		b.noteFreed()
	}
	return t
}

// leave gives up a turn. It has no effect if the turn has come.
func (b *budget) leave(t *turn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.remove(t)
}

// remove removes a turn from its queue, if it is there. The lock is held.
func (b *budget) remove(t *turn) {
	if t.element == nil {
		return
	}
	queue := b.queues[t.limit]
	queue.Remove(t.element)
	t.element = nil
	b.waiting.Add(-1)
	if queue.Len() == 0 {
		delete(b.queues, t.limit)
	}
}

// next returns the next turn for which there is memory, and removes it. It returns nil if there is none.
func (b *budget) next() *turn {
	b.mu.Lock()
	defer b.mu.Unlock()
	for limit, queue := range b.queues {
		if b.hasRoom(limit) {
			t := queue.Front().Value.(*turn)
			b.remove(t)
			return t
		}
	}
	return nil
}

// admitNext lets channels take the memory that there is, one after the other. It looks at no more channels than take some
// of it, and one: a channel whose turn it is uses memory, or waits no more.
func (b *budget) admitNext() {
	for t := b.next(); t != nil; t = b.next() {
		t.channel.memoryFreed(t)
	}
}
