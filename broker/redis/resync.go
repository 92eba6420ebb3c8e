package redis

import (
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// resyncSoon calls resync, and does not wait for it.
func (b *Broker) resyncSoon(scopes map[int]bool) {
	guard.Go(guard.Broker, func() { b.resync(scopes) })
}

// resync makes sure that nothing that was pushed is lost, for the channels of some scopes.
func (b *Broker) resync(scopes map[int]bool) {
	begun, readers, producers := time.Now(), 0, 0
	var resyncs sync.WaitGroup
	resyncs.Go(func() {
		defer guard.Recover(guard.Broker)
		producers = b.resyncWaiters(scopes)
	})
	for _, s := range b.subs.snapshot() {
		if !scopes[b.keys.scopeOf(s.x.partition())] {
			continue
		}
		s.mu.Lock()
		skip := s.starting || s.over
		s.report.stale = s.starting // Redis may have answered it before
		s.mu.Unlock()
		if skip {
			continue
		}
		select {
		case b.resyncs <- struct{}{}:
		case <-b.closing:
			return
		}
		readers++
		resyncs.Go(func() {
			defer guard.Recover(guard.Broker, s.panicked)
			s.resyncAfter(b.tryResync(s)) // further tries hold up no others
		})
	}
	resyncs.Wait()
	if !b.isClosed() {
		b.log.Info("redis: pushes may have been lost: all that wait for some have asked Redis, and go on", "readers", readers,
			"producers", producers, "took", time.Since(begun).Round(time.Millisecond))
	}
}

// tryResync makes the first try of a resync, which is one of those that may run at once.
func (b *Broker) tryResync(s *subscription) (done bool) {
	defer func() { <-b.resyncs }()
	return s.tryResync()
}

// allScopes are the scopes of all channels.
func (b *Broker) allScopes() map[int]bool {
	all := make(map[int]bool, len(b.keys.scopes))
	for scope := range b.keys.scopes {
		all[scope] = true
	}
	return all
}

// maxResyncs is how many readers resync at once, not counting those that try again.
const maxResyncs = 64
