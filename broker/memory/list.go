package memory

import (
	"iter"
	"slices"
	"sync"
)

// A list gives every channel of a Broker, or every topic, a place of its own. So iterating over all of them is fast and delays
// no other call: it holds the lock only while it copies one chunk. Its zero value is empty.
type list[T placed] struct {
	mu     sync.RWMutex
	chunks []*chunk[T]
	free   []int // places without an item
}

// placed is what a list has. Nobody but the list changes the place.
type placed interface {
	comparable
	inList() (place *int)
}

func (c *channel) inList() *int { return &c.place }
func (t *topic) inList() *int   { return &t.place }

// A chunk is a part of a list. A place without an item has the zero value.
type chunk[T placed] [chunkSize]T

const chunkSize = 256

func (l *list[T]) add(item T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.free) == 0 {
		l.grow()
	}
	place := item.inList()
	*place = l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	l.chunks[*place/chunkSize][*place%chunkSize] = item
}

// grow adds a chunk. The lock is held.
func (l *list[T]) grow() {
	first := len(l.chunks) * chunkSize
	l.chunks = append(l.chunks, new(chunk[T]))
	for i := range chunkSize {
		l.free = append(l.free, first+chunkSize-1-i)
	}
}

// put adds items that have their places already. Nobody else uses the list yet.
func (l *list[T]) put(items []T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, item := range items {
		place := *item.inList()
		for place/chunkSize >= len(l.chunks) {
			l.grow()
		}
		l.chunks[place/chunkSize][place%chunkSize] = item
	}
	l.free = slices.DeleteFunc(l.free, func(place int) bool {
		var none T
		return l.chunks[place/chunkSize][place%chunkSize] != none
	})
}

func (l *list[T]) remove(item T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var none T
	place := *item.inList()
	l.chunks[place/chunkSize][place%chunkSize] = none
	l.free = append(l.free, place)
}

// at returns the item in a place, or the zero value if there is none.
func (l *list[T]) at(place int) (none T) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if place/chunkSize >= len(l.chunks) {
		return none
	}
	return l.chunks[place/chunkSize][place%chunkSize]
}

// all iterates over all items, without holding the lock while it yields one. It may yield or miss channels that are
// added or removed meanwhile.
func (l *list[T]) all() iter.Seq[T] { return l.from(0) }

// from is like all, but begins at a place.
func (l *list[T]) from(place int) iter.Seq[T] {
	return func(yield func(T) bool) {
		first := place % chunkSize
		for i := place / chunkSize; ; i++ {
			l.mu.RLock()
			if i >= len(l.chunks) {
				l.mu.RUnlock()
				return
			}
			part := *l.chunks[i]
			l.mu.RUnlock()
			var none T
			for _, item := range part[first:] {
				if item != none && !yield(item) {
					return
				}
			}
			first = 0
		}
	}
}
