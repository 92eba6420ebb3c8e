package memory

import (
	"iter"
	"slices"
	"sync"
)

// A channelList gives every channel of a Broker a place of its own. So iterating over all channels is fast and delays
// no other call: it holds the lock only while it copies one chunk. Its zero value is empty.
type channelList struct {
	mu     sync.RWMutex
	chunks []*chunk
	free   []int // places without a channel
}

// A chunk is a part of a channelList. A place without a channel is nil.
type chunk [256]*channel

func (l *channelList) add(c *channel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.free) == 0 {
		l.grow()
	}
	c.place = l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	l.chunks[c.place/len(chunk{})][c.place%len(chunk{})] = c
}

// grow adds a chunk. The lock is held.
func (l *channelList) grow() {
	first := len(l.chunks) * len(chunk{})
	l.chunks = append(l.chunks, new(chunk))
	for i := range len(chunk{}) {
		l.free = append(l.free, first+len(chunk{})-1-i)
	}
}

// put adds channels that have their places already. Nobody else uses the list yet.
func (l *channelList) put(channels []*channel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range channels {
		for c.place/len(chunk{}) >= len(l.chunks) {
			l.grow()
		}
		l.chunks[c.place/len(chunk{})][c.place%len(chunk{})] = c
	}
	l.free = slices.DeleteFunc(l.free, func(place int) bool {
		return l.chunks[place/len(chunk{})][place%len(chunk{})] != nil
	})
}

func (l *channelList) remove(c *channel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.chunks[c.place/len(chunk{})][c.place%len(chunk{})] = nil
	l.free = append(l.free, c.place)
}

// at returns the channel in a place, or nil if there is none.
func (l *channelList) at(place int) *channel {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if place/len(chunk{}) >= len(l.chunks) {
		return nil
	}
	return l.chunks[place/len(chunk{})][place%len(chunk{})]
}

// all iterates over all channels, without holding the lock while it yields one. It may yield or miss channels that are
// added or removed meanwhile.
func (l *channelList) all() iter.Seq[*channel] { return l.from(0) }

// from is like all, but begins at a place.
func (l *channelList) from(place int) iter.Seq[*channel] {
	return func(yield func(*channel) bool) {
		first := place % len(chunk{})
		for i := place / len(chunk{}); ; i++ {
			l.mu.RLock()
			if i >= len(l.chunks) {
				l.mu.RUnlock()
				return
			}
			part := *l.chunks[i]
			l.mu.RUnlock()
			for _, c := range part[first:] {
				if c != nil && !yield(c) {
					return
				}
			}
			first = 0
		}
	}
}
