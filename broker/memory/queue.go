package memory

import "github.com/caddy-megaphone/megaphone/broker"

// A queue holds a channel's messages, oldest first: those in flight, then the pending ones. Its zero value is empty.
//
// The ring is allocated when the first message comes. It doubles when it is full, and is freed when it is empty and has
// more than keepRing places. So a channel without messages takes little memory.
type queue struct {
	ring     []*broker.Message // its length is zero or a power of two
	head     int
	len      int
	inFlight int // how many messages are in flight, from the first
}

const (
	minRing  = 4
	keepRing = 16 // an empty ring with at most so many places is kept for the next message
)

func (q *queue) pending() int { return q.len - q.inFlight }

// at returns message i, counted from the oldest.
func (q *queue) at(i int) *broker.Message { return q.ring[(q.head+i)&(len(q.ring)-1)] }

// newest returns the newest message. There must be one.
func (q *queue) newest() *broker.Message { return q.at(q.len - 1) }

// setNewest replaces the newest message. There must be one.
func (q *queue) setNewest(m *broker.Message) { q.ring[(q.head+q.len-1)&(len(q.ring)-1)] = m }

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

// popInFlight removes and returns the oldest message, which must be in flight.
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

// find returns the index of the message with an event id among the first n messages, or -1.
func (q *queue) find(id broker.EventID, n int) int {
	for i := range n {
		if q.at(i).ID() == id {
			return i
		}
	}
	return -1
}
