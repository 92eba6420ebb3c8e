package memory

import "github.com/caddy-megaphone/megaphone/broker"

// A queue holds what a channel keeps, oldest first: the messages in flight, then the pending ones. Its zero
// value is empty and has no memory; the ring is allocated on first use, doubles, and is freed when it is empty
// and has grown large, so that a channel without messages costs nothing.
type queue struct {
	ring     []*broker.Message // its length is a power of two, or zero
	head     int
	len      int
	inFlight int // the first so many are in flight
}

const (
	minRing  = 4
	keepRing = 16 // an empty ring of up to so many places is kept for the next message
)

func (q *queue) pending() int { return q.len - q.inFlight }

func (q *queue) at(i int) *broker.Message { return q.ring[(q.head+i)&(len(q.ring)-1)] }

func (q *queue) push(m *broker.Message) {
	if q.len == len(q.ring) {
		ring := make([]*broker.Message, max(minRing, 2*len(q.ring)))
		for i := range q.len {
			ring[i] = q.at(i)
		}
		q.ring, q.head = ring, 0
	}
	q.ring[(q.head+q.len)&(len(q.ring)-1)] = m
	q.len++
}

// popInFlight removes the oldest message, which must be in flight.
func (q *queue) popInFlight() *broker.Message {
	m := q.at(0)
	q.ring[q.head] = nil
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.len--
	q.inFlight--
	if q.len == 0 && len(q.ring) > keepRing {
		q.ring, q.head = nil, 0
	}
	return m
}

// find returns the place of an event among the first n messages, or -1.
func (q *queue) find(id broker.EventID, n int) int {
	for i := range n {
		if q.at(i).ID() == id {
			return i
		}
	}
	return -1
}
