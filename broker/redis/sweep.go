package redis

import (
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
)

// maxSwept is how many channels one call deletes.
const maxSwept = 200

// sweep deletes expired channels of the partitions that this node looks after, and announces deletions.
func (b *Broker) sweep() {
	announce := false
	for scope := range b.keys.scopes {
		owned := b.owned(scope)
		if len(owned) == 0 {
			continue
		}
		keys := []string{b.keys.counters(scope), b.keys.deletions(scope)}
		for _, p := range owned {
			keys = append(keys, b.keys.expiries(p))
		}
		for more := true; more && !b.isClosed(); {
			values, err := b.run(b.background, sweepScript, keys, b.keys.pushPrefix(scope), text(maxSwept)).ToArray()
			if err != nil {
				b.log.Warn("redis: cannot delete expired channels, trying again", "error", err)
				return
			}
			for _, gone := range values[2:] {
				b.countDeleted(gone, broker.EndExpired)
			}
			announce = announce || integer(values, 0) > 0
			if more = integer(values, 1) == 1; len(values) > 2 {
				b.memoryFreed()
			}
		}
	}
	if announce && (len(b.keys.scopes) > 1 || b.owns(0)) {
		b.announce()
	}
}

// countDeleted counts a channel that this node has deleted. values are those of lua/remove.lua.
func (b *Broker) countDeleted(values rueidis.RedisMessage, reason broker.EndReason) {
	numbers, err := values.ToArray()
	if err != nil {
		return
	}
	undelivered := integer(numbers, 0) + integer(numbers, 1)
	b.stats.deleted[reason].Add(1)
	b.stats.undelivered[reason].Add(uint64(undelivered)) //nolint:gosec // not negative
	b.stats.life.observe(lifeBounds, time.Duration(integer(numbers, 2))*time.Millisecond, 1)
	b.drainUndelivered.Add(undelivered)
}
