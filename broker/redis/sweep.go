package redis

import (
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/histogram"
)

// maxSwept is how many channels one call deletes.
const maxSwept = 200

// findings are what a sweep has found to do.
type findings struct {
	topics map[int][]rueidis.RedisMessage // by scope: what lua/sweep.lua has returned
	// Scopes in which deletions are to be announced, or channels to be reported in which messages wait.
	announced, waiting []int
}

// sweep deletes expired channels of the partitions that this node looks after, and finds what else is to be done there. When its time
// is over, it leaves the rest to the next round.
func (b *Broker) sweep(over func() bool) findings {
	look := b.lookForWaiting()
	var scopes []int
	for scope := range b.keys.scopes {
		if len(look.owned[scope]) > 0 {
			scopes = append(scopes, scope)
		}
	}
	found := findings{topics: map[int][]rueidis.RedisMessage{}}
	for len(scopes) > 0 && !b.isClosed() {
		calls := make([]scriptCall, len(scopes))
		for i, scope := range scopes {
			calls[i] = b.sweepCall(scope, &look)
		}
		var more []int
		for i, reply := range b.runAll(b.background, sweepScript, calls) {
			values, err := reply.ToArray()
			if err != nil || len(values) < sweepValues {
				b.warn(&b.warnings.work, "redis: cannot delete expired channels, trying again", "error", err)
				continue
			}
			look.looked(b, scopes[i])
			found.topics[scopes[i]] = values
			for _, gone := range values[sweepValues:] {
				b.countDeleted(gone, broker.EndExpired)
			}
			if len(values) > sweepValues {
				b.memoryFreed()
			}
			if integer(values, 1) == 1 && !over() {
				more = append(more, scopes[i])
				continue
			}
			if integer(values, 0) > 0 && b.announces(scopes[i]) {
				found.announced = append(found.announced, scopes[i])
			}
			if integer(values, 4) > 0 {
				found.waiting = append(found.waiting, scopes[i])
			}
		}
		scopes = more
	}
	return found
}

// report reports what a sweep has found to report, until its time is over.
func (b *Broker) report(found findings, over func() bool) {
	b.takeEach(append(b.announcing(found.announced), b.reportingWaiting(found.waiting)...), over)
}

// sweepCall returns the call of lua/sweep.lua for a scope.
func (b *Broker) sweepCall(scope int, look *waitingLook) scriptCall {
	keys := []string{b.keys.counters(scope), b.keys.deletions(scope), b.keys.unread(scope)}
	for _, p := range look.owned[scope] {
		keys = append(keys, b.keys.expiries(p))
	}
	after, again, hashTags := "", "0", ""
	if look.looks {
		for _, p := range look.owned[scope] {
			keys = append(keys, b.keys.waiting(p))
		}
		after, again = text(ms(look.after)), text(one(b.waiting.missing[scope]))
		if look.after == 0 && len(b.keys.scopes) == 1 {
			hashTags = allTags()
		}
	}
	return scriptCall{keys, []string{b.keys.pushPrefix(scope), text(maxSwept), text(one(b.announces(scope))), after, again, hashTags}}
}

// sweepValues is how many values lua/sweep.lua returns before those of channels.
const sweepValues = 5

// lookAfterTopics does what is to be done for topics of some scopes, until its time is over. values are those of lua/sweep.lua.
func (b *Broker) lookAfterTopics(values map[int][]rueidis.RedisMessage, over func() bool) {
	for scope, v := range values { // in a random order, so none always comes last
		if over() {
			return
		}
		var err error
		if integer(v, 2) == 1 {
			err = b.tellHomes(scope, over)
		}
		if names, namesErr := v[3].AsStrSlice(); err == nil && namesErr == nil && len(names) > 0 {
			err = b.checkScopes(scope, names, over)
		}
		b.warnOfTopics(err)
	}
}

func (b *Broker) warnOfTopics(err error) {
	if err != nil {
		b.warn(&b.warnings.work, "redis: cannot look after topics, trying again", "error", err)
	}
}

// announces reports whether this node reports the deletions of a scope: one that all partitions share belongs to the owner of the
// first of them.
func (b *Broker) announces(scope int) bool { return len(b.keys.scopes) > 1 || b.owns(scope) }

// countDeleted counts a channel that this node has deleted. values are those of lua/remove.lua. It returns of how many topics the
// channel was a member.
func (b *Broker) countDeleted(values rueidis.RedisMessage, reason broker.EndReason) (topics int64) {
	numbers, err := values.ToArray()
	if err != nil {
		return 0
	}
	undelivered := integer(numbers, 0) + integer(numbers, 1)
	b.stats.deleted[reason].Add(1)
	b.stats.undelivered[reason].Add(uint64(undelivered)) //nolint:gosec // not negative
	b.stats.life.Observe(histogram.Life, time.Duration(integer(numbers, 2))*time.Millisecond, 1)
	b.drainUndelivered.Add(undelivered)
	return integer(numbers, 3)
}
