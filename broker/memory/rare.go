package memory

import (
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// An ending says why a channel takes no more calls.
type ending uint8

const (
	open       ending = iota // it takes calls
	deleted                  // it was deleted, or has expired
	withBroker               // its Broker was closed
)

// err returns the error of calls to the channel.
func (e ending) err() error {
	return [...]error{open: nil, deleted: broker.ErrNotFound, withBroker: broker.ErrClosed}[e]
}

// rare is what few channels have. The positions in it are indexes of the channel's queue.
type rare struct {
	client string        // whose quota counts the channel; may be empty
	ttl    time.Duration // of its own; 0 if it has none

	knowsTopics bool
	more        []membership // all but the first
	missed      int          // messages of topics since the newest message of the queue
	notes       []missNote   // what was missed before messages of the queue, in order
	outside     []span       // pending messages that do not count toward the buffer, in order
	outsideLen  int          // how many those are
}

// A missNote says how many messages were missed before one of the queue.
type missNote struct{ at, missed int }

// A span is messages of the queue, from the first to before the end.
type span struct{ from, end int }

// ensureRare returns the rare parts of the channel. The lock is held.
func (c *channel) ensureRare() *rare {
	if c.rare == nil {
		c.rare = &rare{}
	}
	return c.rare
}

func (c *channel) releaseQuota() {
	if c.rare != nil && c.rare.client != "" {
		c.broker.quotas.release(c.rare.client)
	}
}

// lives returns how long the channel lives without a reader, if a call says ttl.
func (c *channel) lives(ttl time.Duration) time.Duration {
	if c.rare != nil && c.rare.ttl != 0 {
		return c.rare.ttl
	}
	return ttl
}

// knowsTopics reports whether the channel's consumer understands what only members of topics are sent. The lock is held.
func (c *channel) knowsTopics() bool { return c.rare != nil && c.rare.knowsTopics }

// miss notes that the channel has missed a message of a topic. The lock is held.
func (c *channel) miss() {
	c.counters.skipped.Add(1)
	if c.knowsTopics() {
		c.rare.missed++
	}
}

// noteMissed makes the newest message of the queue say what was missed before it. The lock is held.
func (c *channel) noteMissed() {
	if c.rare == nil || c.rare.missed == 0 {
		return
	}
	r, at := c.rare, c.queue.len-1
	if last := len(r.notes) - 1; last >= 0 && r.notes[last].at == at { // it was merged
		r.notes[last].missed += r.missed
	} else {
		r.notes = append(r.notes, missNote{at, r.missed})
	}
	r.missed = 0
}

// asSent returns the message at an index of the queue as the reader gets it. The lock is held.
func (c *channel) asSent(i int) *broker.Message {
	m := c.queue.at(i)
	if c.rare == nil {
		return m
	}
	for _, n := range c.rare.notes {
		if n.at == i {
			return m.Missed(n.missed)
		}
	}
	return m
}

// putOutside puts a message into the queue, whether there is room or not. It does not count toward the buffer. If it can be
// merged with the newest pending one, it is. If the journal fails, nothing happens. The lock is held.
func (c *channel) putOutside(m *broker.Message, l *broker.Limits, j *join) error {
	if c.merges(m, l) {
		return c.merge(m, j)
	}
	if err := c.put(m, nil); err != nil {
		return err
	}
	r, i := c.ensureRare(), c.queue.len-1
	if last := len(r.outside) - 1; last >= 0 && r.outside[last].end == i {
		r.outside[last].end++
	} else {
		r.outside = append(r.outside, span{i, i + 1})
	}
	r.outsideLen++
	return nil
}

// counted returns how many pending messages count toward the buffer. The lock is held.
func (c *channel) counted() int {
	if c.rare == nil {
		return c.queue.pending()
	}
	return c.queue.pending() - c.rare.outsideLen
}

// take marks the first pending message as in flight. The lock is held.
func (c *channel) take() {
	i := c.queue.inFlight
	c.queue.inFlight++
	if c.rare == nil || len(c.rare.outside) == 0 || c.rare.outside[0].from != i {
		return
	}
	r := c.rare
	r.outsideLen--
	if r.outside[0].from++; r.outside[0].from == r.outside[0].end {
		r.outside = r.outside[1:]
	}
}

// shift adjusts what the rare parts say of the queue after the oldest n messages have left it.
func (r *rare) shift(n int) {
	if r == nil {
		return
	}
	gone := 0
	for i := range r.notes {
		if r.notes[i].at -= n; r.notes[i].at < 0 {
			gone++
		}
	}
	r.notes = r.notes[gone:]
	for i := range r.outside {
		r.outside[i].from -= n
		r.outside[i].end -= n
	}
}
