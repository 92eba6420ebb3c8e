package redis

import (
	"context"
	"slices"
	"strconv"

	"github.com/redis/rueidis"
)

// maxRetries is in how many channels at once a refresh admits producers that wait for memory.
const maxRetries = 256

// refresh learns the totals, and admits producers that wait for memory, if some is free. It fails if no server answers. The totals of
// those that do not are the last ones. To wait for its turn and for the answers takes no longer than one call may.
func (b *Broker) refresh(ctx context.Context) error {
	l := b.ledger
	counting, cancel := context.WithTimeout(ctx, b.options.Timeout)
	defer cancel()
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-counting.Done():
		return b.failed(counting.Err(), false)
	}
	calls := make([]scriptCall, l.scopes)
	for scope := range calls {
		calls[scope] = scriptCall{[]string{b.keys.counters(scope), b.keys.memory(scope)}, []string{"", strconv.Itoa(maxRetries)}}
	}
	all := &allTotals{parts: slices.Clone(l.current.Load().parts)}
	var waiting []channelID
	var failure error
	answers := 0
	for scope, reply := range b.runAll(counting, countScript, calls) {
		values, err := reply.ToArray()
		if err != nil {
			failure = err
			all.sum.add(all.parts[scope])
			continue
		}
		answers++
		part := totals{
			channels: integer(values, 0), readers: integer(values, 1), messages: integer(values, 2), inFlight: integer(values, 3),
			bytes: integer(values, 4), held: integer(values, 5), heldBytes: integer(values, 6),
		}
		if len(values) >= 11 {
			part.topics, part.memberships, part.kept = integer(values, 8), integer(values, 9), integer(values, 10)
		}
		all.parts[scope] = part
		all.sum.add(part)
		names, _ := values[7].AsStrSlice()
		for _, name := range names {
			if x, ok := toChannelID(name); ok {
				waiting = append(waiting, x)
			}
		}
	}
	if answers == 0 {
		return b.failed(failure, false)
	}
	l.current.Store(all)
	if len(waiting) > 0 {
		b.retry(ctx, waiting)
	}
	return nil
}

func (t *totals) add(other totals) {
	t.channels += other.channels
	t.readers += other.readers
	t.messages += other.messages
	t.inFlight += other.inFlight
	t.bytes += other.bytes
	t.held += other.held
	t.heldBytes += other.heldBytes
	t.topics += other.topics
	t.memberships += other.memberships
	t.kept += other.kept
}

// retry admits producers that wait for memory. A channel in which some go on waiting is put back into the set.
func (b *Broker) retry(ctx context.Context, channels []channelID) {
	calls := make([]scriptCall, len(channels))
	for i, x := range channels {
		keys, prefix := b.keys.channelKeys(x)
		calls[i] = scriptCall{keys, []string{prefix, b.bytesElsewhere(x)}}
	}
	for _, reply := range b.runAll(ctx, retryScript, calls) {
		if err := reply.Error(); err != nil {
			b.warn(&b.warnings.work, "redis: cannot admit producers that wait for memory", "error", err)
			return
		}
	}
}

// bytesElsewhere returns what messages take in the scopes that a channel is not in.
func (b *Broker) bytesElsewhere(x channelID) string {
	return text(b.ledger.elsewhere(b.keys.scopeOf(x.partition())).bytes)
}

// memoryFreed is called when producers wait for memory that was freed.
func (b *Broker) memoryFreed() {
	select {
	case b.freed <- struct{}{}:
	default:
	}
}

func integer(values []rueidis.RedisMessage, i int) int64 {
	if i >= len(values) {
		return 0
	}
	n, _ := values[i].AsInt64()
	return n
}

func toChannelID(s string) (x channelID, ok bool) {
	return x, copy(x[:], s) == len(x) && len(s) == len(x)
}
