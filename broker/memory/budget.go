package memory

import (
	"github.com/caddy-megaphone/megaphone/broker"
	"sync"
	"sync/atomic"
)

// A budget counts the bytes of all messages that a registry's channels hold, and knows which channels have
// producers that wait for some to be freed. A message that many channels hold is counted once.
//
// What waits in line is counted apart from what is buffered, and may be a sixteenth of the limit, so that
// producers who are held do not use up what readers would free.
type budget struct {
	buffered, held atomic.Int64

	// waiting is the length of channels, to be read without the lock.
	waiting  atomic.Int32
	mu       sync.Mutex
	channels []*channel

	// freed receives a value when some of the channels may go on.
	freed chan struct{}
}

// hasRoom reports whether another message may be buffered. The one that crosses the limit is let in, so that no
// message is too large for an empty broker.
func (mem *budget) hasRoom(limit int64) bool { return mem.buffered.Load() < limit }

// hasHeldRoom reports whether another message may wait in line.
func (mem *budget) hasHeldRoom(limit int64) bool { return mem.held.Load() < limit/16 }

// reserve counts one more channel that has the message in its queue.
func (mem *budget) reserve(m *broker.Message) {
	if m.Uses().Buffered.Add(1) == 1 {
		mem.buffered.Add(m.Size())
	}
}

// release is the opposite of buffer.
func (mem *budget) release(m *broker.Message) {
	if m.Uses().Buffered.Add(-1) > 0 {
		return
	}
	mem.buffered.Add(-m.Size())
	if mem.waiting.Load() > 0 {
		select {
		case mem.freed <- struct{}{}:
		default:
		}
	}
}

// reserveHeld counts one more channel that has the message in its line.
func (mem *budget) reserveHeld(m *broker.Message) {
	if m.Uses().Held.Add(1) == 1 {
		mem.held.Add(m.Size())
	}
}

// releaseHeld is the opposite of hold.
func (mem *budget) releaseHeld(m *broker.Message) {
	if m.Uses().Held.Add(-1) == 0 {
		mem.held.Add(-m.Size())
	}
}

// await registers a channel to be told when memory is freed.
func (mem *budget) await(c *channel) {
	mem.mu.Lock()
	mem.channels = append(mem.channels, c)
	mem.mu.Unlock()
	mem.waiting.Add(1)
}

// retryAll lets the producers of all registered channels try again. Channels that find no memory register again.
func (mem *budget) retryAll() {
	mem.mu.Lock()
	channels := mem.channels
	mem.channels = nil
	mem.mu.Unlock()
	mem.waiting.Add(-int32(len(channels))) //nolint:gosec // there are far fewer channels
	for _, c := range channels {
		c.memoryFreed()
	}
}
