package memory

import (
	"sync"
	"sync/atomic"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A budget counts the bytes of all messages that a Broker's channels hold. A message that many channels hold counts
// once. The budget also has a list of the channels whose producers wait for memory.
//
// Messages that wait for room count separately from buffered ones, and may take a sixteenth of the limit. So held
// producers do not use up the memory that readers free.
type budget struct {
	buffered, held atomic.Int64 // bytes

	// waiting is the length of channels. It can be read without the lock.
	waiting  atomic.Int32
	mu       sync.Mutex
	channels []*channel

	// freed receives a value when memory was freed and channels wait for it.
	freed chan struct{}
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
		select {
		case b.freed <- struct{}{}:
		default:
		}
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

// register adds a channel to the list of those that retryAll retries when memory is freed.
func (b *budget) register(c *channel) {
	b.mu.Lock()
	b.channels = append(b.channels, c)
	b.waiting.Add(1)
	b.mu.Unlock()
}

// retryAll empties the list and lets the producers of its channels try again. A channel that finds no memory registers
// again.
func (b *budget) retryAll() {
	b.mu.Lock()
	channels := b.channels
	b.channels = nil
	b.waiting.Store(0)
	b.mu.Unlock()
	for _, c := range channels {
		c.memoryFreed()
	}
}
