package redis

import (
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/warning"
)

// health is what is wrong between this node and Redis. Its heartbeat and each of its listeners find out by themselves, and each
// of them takes back what it has found.
type health struct {
	mu    sync.Mutex
	bad   map[*listener]error // nil stands for the heartbeat
	since time.Time           // when the first of them came
}

// setHealth notes what a listener, or without one the heartbeat, has found, and logs when health changes. It reports whether
// it was otherwise before.
func (b *Broker) setHealth(of *listener, err error) (changed bool) {
	h := &b.health
	h.mu.Lock()
	defer h.mu.Unlock()
	before, was := h.bad[of]
	healthy := len(h.bad) == 0
	if err == nil {
		delete(h.bad, of)
	} else {
		h.bad[of] = err
	}
	switch {
	case b.isClosed() || !b.isStarted():
	case healthy && err != nil:
		h.since = time.Now()
		b.log.Error("redis: connection lost: open reads stay open, writes fail, and health checks too", "address", b.where(), "error", err)
	case !healthy && len(h.bad) == 0:
		b.log.Info("redis: connection is back", "address", b.where(), "after", time.Since(h.since).Round(time.Millisecond), "was", before)
	}
	return was != (err != nil)
}

// Healthy implements [broker.HealthChecker].
func (b *Broker) Healthy() error {
	if !b.isStarted() {
		return broker.ErrStarting
	}
	b.health.mu.Lock()
	defer b.health.mu.Unlock()
	for _, err := range b.health.bad {
		return err
	}
	return nil
}

// warnings keep what many readers meet at once from filling the log.
type warnings struct{ reads, ends, work warning.Limiter }

// warn logs a warning unless the log has had it a moment ago. count tells how often it would have.
func (b *Broker) warn(l *warning.Limiter, text string, args ...any) {
	if n := l.Due(1); n > 0 {
		b.log.Warn(text, append(args, "count", n)...)
	}
}

// logCounts logs what has happened since the last call that an operator should know. Only the heartbeat calls it.
func (b *Broker) logCounts() {
	fenced, lost := b.store.fenced.Load(), b.store.lostPushes.Load()
	if n := fenced - b.heartbeat.logged.fenced; n > 0 {
		b.log.Warn("redis: refused calls for readers of this node, because other nodes have their channels: the readers have ended, or asked again", "calls", n)
	}
	if n := lost - b.heartbeat.logged.lost; n > 0 {
		b.log.Info("redis: pushed messages did not come: their readers have fetched them", "messages", n)
	}
	b.heartbeat.logged.fenced, b.heartbeat.logged.lost = fenced, lost
}
