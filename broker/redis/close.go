package redis

import (
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

const (
	// closeTimeout is how long Close waits for Redis. The process should be gone within a second.
	closeTimeout = 600 * time.Millisecond
	// endTimeout is how long Close waits for readers to say how they have ended.
	endTimeout = 200 * time.Millisecond
)

// Close implements [broker.Broker]. Channels and their messages stay in Redis: other nodes, and this one after a restart, go on
// with them. Messages of calls that wait are withdrawn. Readers have a moment to end, which settles what they have received. If
// Redis does not answer in time, Close gives up: other nodes find out that this one is gone.
func (b *Broker) Close() {
	if b.closed.Swap(true) {
		return
	}
	close(b.closing) // which ends Start
	b.startMu.Lock()
	defer b.startMu.Unlock()
	for _, s := range b.subs.snapshot() {
		s.close()
	}
	b.within(closeTimeout, b.leave)
	b.cancel()
	if b.client != nil {
		b.within(closeTimeout/4, b.client.Close)
	}
}

// within calls f, and returns when that has returned or the time is over.
func (b *Broker) within(limit time.Duration, f func()) {
	done := make(chan struct{})
	guard.Go(guard.Broker, func() {
		defer close(done)
		f()
	})
	select {
	case <-done:
	case <-time.After(limit):
	}
}

// leave waits for readers and for calls, and tells the other nodes that this one is gone.
func (b *Broker) leave() {
	if !b.isStarted() {
		return
	}
	b.await(endTimeout, func() bool { return len(b.subs.snapshot()) == 0 })
	b.endReads()
	<-b.worked
	<-b.heartbeat.stopped
	b.await(closeTimeout, func() bool { return len(b.waiters.snapshot()) == 0 && b.areIdle() })
	b.announceAll(func() bool { return b.background.Err() != nil })
	c := b.client
	_ = b.do(b.background, c, c.B().Zrem().Key(b.keys.nodes()).Member(b.node).Build())
	_ = b.do(b.background, c, c.B().Hdel().Key(b.keys.aboutNodes()).Field(b.node).Build())
}

// areIdle reports whether no write is on its way.
func (b *Broker) areIdle() bool {
	for _, l := range b.lanes {
		l.mu.Lock()
		calls := l.calls
		l.mu.Unlock()
		if calls > 0 {
			return false
		}
	}
	return true
}

// await waits until something holds, the time is over, or Close has given up.
func (b *Broker) await(limit time.Duration, holds func() bool) {
	for end := time.Now().Add(limit); !holds() && time.Now().Before(end) && b.background.Err() == nil; {
		time.Sleep(time.Millisecond)
	}
}

// endReads ends the reads whose readers have not said how they end. What these have received may be sent again.
func (b *Broker) endReads() {
	var ends sync.WaitGroup
	for _, s := range b.subs.snapshot() {
		s.mu.Lock()
		final, open := s.takeReport(true), !s.over && !s.starting
		s.ended = true
		s.finish(broker.ErrClosed)
		s.mu.Unlock()
		if open {
			ends.Go(func() {
				defer guard.Recover(guard.Broker)
				_ = s.tryEnd(final)
			})
		}
	}
	ends.Wait()
}

// close tells the reader that the Broker closes. What it has received, and how it ends, it may still say.
func (s *subscription) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over:
	case s.starting:
		s.finish(broker.ErrClosed)
	default:
		s.closes, s.err = true, broker.ErrClosed
		s.report.stop()
		close(s.done)
		s.callNotify()
	}
}
