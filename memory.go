package megaphone

import (
	"sync"
	"sync/atomic"
)

// A memory counts the bytes of all messages that a registry's channels hold, and knows which channels have
// producers that wait for some to be freed. A message that many channels hold is counted once.
//
// What waits in line is counted apart from what is buffered, and may be a sixteenth of the limit, so that
// producers who are held do not use up what readers would free.
type memory struct {
	buffered, held atomic.Int64

	// waiting is the length of channels, to be read without the lock.
	waiting  atomic.Int32
	mu       sync.Mutex
	channels []*channel

	// freed receives a value when some of the channels may go on.
	freed chan struct{}
}

// admits reports whether another message may be buffered. The one that crosses the limit is let in, so that no
// message is too large for an empty broker.
func (mem *memory) admits(limit int64) bool { return mem.buffered.Load() < limit }

// holds reports whether another message may wait in line.
func (mem *memory) holds(limit int64) bool { return mem.held.Load() < limit/16 }

// buffer counts one more channel that has the message in its queue.
func (mem *memory) buffer(m *Message) {
	if m.buffered.Add(1) == 1 {
		mem.buffered.Add(m.size())
	}
}

// unbuffer is the opposite of buffer.
func (mem *memory) unbuffer(m *Message) {
	if m.buffered.Add(-1) > 0 {
		return
	}
	mem.buffered.Add(-m.size())
	if mem.waiting.Load() > 0 {
		select {
		case mem.freed <- struct{}{}:
		default:
		}
	}
}

// hold counts one more channel that has the message in its line.
func (mem *memory) hold(m *Message) {
	if m.held.Add(1) == 1 {
		mem.held.Add(m.size())
	}
}

// unhold is the opposite of hold.
func (mem *memory) unhold(m *Message) {
	if m.held.Add(-1) == 0 {
		mem.held.Add(-m.size())
	}
}

// await registers a channel to be told when memory is freed.
func (mem *memory) await(c *channel) {
	mem.mu.Lock()
	mem.channels = append(mem.channels, c)
	mem.mu.Unlock()
	mem.waiting.Add(1)
}

// tell lets the producers of all registered channels try again. Channels that find no memory register again.
func (mem *memory) tell() {
	mem.mu.Lock()
	channels := mem.channels
	mem.channels = nil
	mem.mu.Unlock()
	mem.waiting.Add(-int32(len(channels))) //nolint:gosec // there are far fewer channels
	for _, c := range channels {
		c.memoryFreed()
	}
}
