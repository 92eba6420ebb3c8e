package memory

import (
	"math"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/clock"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// waiting is what OnWaiting was given. Its zero value reports nothing.
type waiting struct {
	mu     sync.Mutex
	after  func() time.Duration
	report func([]broker.Waiting)

	looked time.Duration // when the Broker's goroutine last looked; only that uses it
}

// waitingLooks is how often the Broker looks for such channels, at most, in the time that messages have to wait. So a report is
// late by a tenth of that time, or by sweepInterval if that is longer, and a million idle channels cost next to nothing.
const waitingLooks = 10

// OnWaiting implements [broker.WaitingSource]. The Broker's goroutine calls both functions. While report runs, the Broker does
// not look for expired channels.
func (b *Broker) OnWaiting(after func() time.Duration, report func([]broker.Waiting)) {
	b.waiting.mu.Lock()
	defer b.waiting.mu.Unlock()
	b.waiting.after, b.waiting.report = after, report
}

// reportWaiting reports channels in which messages have waited for long enough. It locks only those without a reader.
func (b *Broker) reportWaiting() {
	b.waiting.mu.Lock()
	after, report := b.waiting.after, b.waiting.report
	b.waiting.mu.Unlock()
	if report == nil {
		return
	}
	now, wait := b.now(), after()
	if wait <= 0 || now-b.waiting.looked < wait/waitingLooks {
		return
	}
	b.waiting.looked = now
	var batch []broker.Waiting
	flush := func() {
		defer guard.Recover(guard.Broker) // the next batches are reported all the same
		report(batch)
	}
	for c := range b.list.all() {
		if c.expires.Load() == never {
			continue
		}
		if w, ok := c.tellWaiting(wait); ok {
			batch = append(batch, w)
		}
		if len(batch) == maxDeletionBatch {
			flush()
			batch = nil
		}
	}
	if len(batch) > 0 {
		flush()
	}
}

// waitingTold is rare.unread of a channel that was reported.
const waitingTold = math.MaxInt64

// tellWaiting reports whether messages have waited for some time in a channel that nobody reads, and notes that this is told. It
// is false if it was told before, and no reader has come since.
func (c *channel) tellWaiting(after time.Duration) (w broker.Waiting, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != open || c.reader != nil || c.rare != nil && c.rare.unread == waitingTold {
		return w, false
	}
	first := 0
	if !c.acks {
		first = min(int(c.unconfirmed), c.queue.inFlight)
	}
	messages := c.queue.len - c.notDurable() - first
	if messages <= 0 {
		return w, false
	}
	since := c.unreadSince(first)
	if c.broker.now()-max(since, 0) < after { // if the channel was restored, its reader needs time to come back
		return w, false
	}
	c.ensureRare().unread = waitingTold
	return broker.Waiting{Agent: c.agent, Secret: c.consumer, Messages: messages, Since: c.broker.wallTime(since)}, true
}

// unreadSince returns since when the message at an index of the queue waits for a reader, on the Broker's clock. There is such a
// message, and no reader. The lock is held.
func (c *channel) unreadSince(i int) time.Duration {
	m := c.queue.at(i)
	accepted := m.Accepted()
	if r := c.marks(); r != nil {
		accepted = r.since(i, accepted)
	}
	since := max(c.created, c.broker.now()-(clock.Now()-accepted))
	if c.lastRead != 0 {
		since = max(since, c.lastRead)
	}
	if m.Merge() == broker.MergeNone {
		return since
	}
	// It may have taken the place of a message that came long before. How long ago, only this note says.
	r := c.ensureRare()
	if r.unread == 0 {
		r.unread = since
	}
	return min(since, r.unread)
}

// readerComes notes that what waits has a reader. The lock is held.
func (c *channel) readerComes() {
	if c.rare != nil {
		c.rare.unread = 0
	}
}
