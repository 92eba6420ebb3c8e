package memory

import (
	"cmp"
	"slices"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
	"github.com/caddy-megaphone/megaphone/internal/clock"
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

// rare is what few channels have.
type rare struct {
	client string        // whose quota counts the channel; may be empty
	ttl    time.Duration // of its own; 0 if it has none
	more   []membership  // all but the first
	marks  *marks        // nil until there is one
	// unread is since when messages wait for a reader, on the Broker's clock, if that was noted; waitingTold once it was reported.
	unread time.Duration
}

// marks are what is special about messages of a channel's queue. A position of a message is its index in the queue plus letGo.
type marks struct {
	letGo        uint64     // messages that were let go since there are marks
	missed       int        // messages of topics since the newest message of the queue
	notes        []missNote // what was missed before messages of the queue, oldest first
	outside      []span     // pending messages that do not count toward the buffer, oldest first
	outsideCount int        // how many those are
	gap          bool       // a message of a topic may be missing after the newest one and what waits for room: it was missed, or the channel left
}

// A missNote says how many messages were missed before the one at a position.
type missNote struct {
	position uint64
	missed   int
}

func (n missNote) compare(position uint64) int { return cmp.Compare(n.position, position) }

// A span is messages from a position to before another one.
type span struct {
	from, end uint64
	since     time.Duration // when the channel got them, on clock.Now
}

// ensureRare returns the rare parts of the channel. The lock is held, or nobody else has the channel yet.
func (c *channel) ensureRare() *rare {
	if c.rare == nil {
		c.rare = &rare{}
	}
	return c.rare
}

// ensureMarks returns the marks of the channel. The lock is held.
func (c *channel) ensureMarks() *marks {
	r := c.ensureRare()
	if r.marks == nil {
		r.marks = &marks{}
	}
	return r.marks
}

// marks returns the marks of the channel, or nil if it has none. The lock is held.
func (c *channel) marks() *marks {
	if c.rare == nil {
		return nil
	}
	return c.rare.marks
}

func (c *channel) releaseQuota() {
	if c.rare != nil && c.rare.client != "" {
		c.broker.quotas.release(c.rare.client)
	}
}

// lifetime returns how long the channel lives without a reader, if a call says ttl. The lock is held.
func (c *channel) lifetime(ttl time.Duration) time.Duration {
	if c.rare != nil && c.rare.ttl != 0 {
		return c.rare.ttl
	}
	return ttl
}

// miss notes that the channel has missed a message of a topic because it had no room. The lock is held.
func (c *channel) miss() {
	c.counters.skipped.Add(1)
	c.noteMiss()
}

// noteMiss is miss without counting. The lock is held.
func (c *channel) noteMiss() {
	if c.knowsTopics {
		c.ensureMarks().missed++
		c.setGap()
		c.journalMark(c.queue.len)
		return
	}
	c.noteGap()
}

// noteGap notes that a message of a topic may be missing after the newest one, and after those that wait for room. The lock is held.
func (c *channel) noteGap() {
	if c.setGap() {
		c.journalMark(c.queue.len)
	}
}

// setGap is noteGap without a journal. It reports whether there was none before. The lock is held.
func (c *channel) setGap() (changed bool) {
	if c.queue.pending() == 0 && c.held.first == nil {
		return false
	}
	r := c.ensureMarks()
	changed, r.gap = !r.gap, true
	return changed
}

// noteMerged is noteMissed for a message that was merged with the newest one. The lock is held.
func (c *channel) noteMerged() {
	if r := c.marks(); r != nil && (r.gap || r.missed > 0) {
		c.noteMissed()
		c.journalMark(c.queue.len - 1)
		c.journalMark(c.queue.len)
	}
}

// noteMissed makes the newest message of the queue, which has just come, say what was missed before it. The lock is held.
func (c *channel) noteMissed() {
	r := c.marks()
	if r == nil {
		return
	}
	if r.missed > 0 {
		r.note(r.letGo + uint64(c.queue.len) - 1) //nolint:gosec // there is a message
	}
	if r.gap = r.gap && c.held.first != nil; r.gap { // what waits is older than what was missed meanwhile
		c.journalMark(c.queue.len)
	}
}

// note makes the newest message, at a position, say what was missed.
func (r *marks) note(position uint64) {
	if last := len(r.notes) - 1; last >= 0 && r.notes[last].position == position {
		r.notes[last].missed += r.missed // the message was merged
	} else {
		r.notes = append(r.notes, missNote{position, r.missed})
	}
	r.missed = 0
}

// asSent returns the message at an index of the queue as a reader gets it. The lock is held.
func (c *channel) asSent(i int) *broker.Message {
	m, r := c.queue.at(i), c.marks()
	if r == nil || len(r.notes) == 0 {
		return m
	}
	at, found := slices.BinarySearchFunc(r.notes, r.letGo+uint64(i), missNote.compare) //nolint:gosec // not negative
	if !found {
		return m
	}
	return m.Missed(r.notes[at].missed)
}

// putOutside puts a message into the queue, whether there is room or not. It does not count toward the buffer. If it may be
// merged with the newest pending message, and there is memory for what they become, it is. If the journal fails, nothing happens.
// The lock is held.
func (c *channel) putOutside(m *broker.Message, l *broker.Limits, batch *journal.Batch) error {
	if c.merges(m, l) && c.broker.budget.hasRoom(l.MaxMemory) {
		return c.merge(m, nil)
	}
	if err := c.put(m, batch); err != nil {
		return err
	}
	r := c.ensureMarks()
	r.addOutside(r.letGo + uint64(c.queue.len) - 1) //nolint:gosec // there is a message
	c.journalMark(c.queue.len - 1)
	return nil
}

// addOutside notes that the newest message, at a position, does not count toward the buffer.
func (r *marks) addOutside(position uint64) {
	now := clock.Now()
	if last := len(r.outside) - 1; last >= 0 && r.outside[last].end == position && now-r.outside[last].since < time.Second {
		r.outside[last].end++
	} else {
		r.outside = append(r.outside, span{position, position + 1, now})
	}
	r.outsideCount++
}

// counted returns how many pending messages count toward the buffer. The lock is held.
func (c *channel) counted() int {
	if r := c.marks(); r != nil {
		return c.queue.pending() - r.outsideCount
	}
	return c.queue.pending()
}

// take marks the oldest pending message as in flight, and returns from when on its delay counts. The lock is held.
func (c *channel) take() (since time.Duration) {
	i := c.queue.inFlight
	c.queue.inFlight++
	since = c.queue.at(i).Accepted()
	if r := c.marks(); r != nil && len(r.outside) > 0 {
		since = r.take(i, since)
	}
	return since
}

// take is take for a channel with messages outside the buffer.
func (r *marks) take(i int, since time.Duration) time.Duration {
	first := &r.outside[0]
	if first.from != r.letGo+uint64(i) { //nolint:gosec // not negative
		return since
	}
	since = max(since, first.since)
	r.outsideCount--
	if first.from++; first.from == first.end {
		if r.outside = r.outside[1:]; len(r.outside) == 0 {
			r.outside = nil
		}
	}
	return since
}

// since returns when the channel got the message at an index, which was accepted then, or before. It looks only at the oldest
// pending one outside the buffer.
func (r *marks) since(i int, accepted time.Duration) time.Duration {
	if len(r.outside) > 0 && r.outside[0].from == r.letGo+uint64(i) { //nolint:gosec // not negative
		return max(accepted, r.outside[0].since)
	}
	return accepted
}

// shift notes that the oldest n messages have left the queue. All of them were in flight.
func (r *marks) shift(n int) {
	if r == nil {
		return
	}
	r.letGo += uint64(n) //nolint:gosec // not negative
	gone := 0
	for gone < len(r.notes) && r.notes[gone].position < r.letGo {
		gone++
	}
	if r.notes = r.notes[gone:]; len(r.notes) == 0 {
		r.notes = nil
	}
}
