package redis

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// maxRetries is in how many channels at once a refresh admits producers that wait for memory.
const maxRetries = 256

// refreshSoon refreshes the totals unless that was done not long ago. It returns after the timeout of calls at the latest.
func (b *Broker) refreshSoon(age time.Duration) {
	l := b.ledger
	l.mu.Lock()
	fresh := time.Since(l.at) < age
	l.mu.Unlock()
	if !fresh && b.isStarted() && !b.isClosed() {
		_ = b.refresh(b.background)
	}
}

// refresh tells Redis what this node has published, and learns the totals. If memory is free, it admits producers that wait
// for it.
func (b *Broker) refresh(ctx context.Context) error {
	l := b.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	var waiting []channelID
	for scope, reply := range b.runAll(ctx, countScript, l.report(&b.keys)) {
		values, err := reply.ToArray()
		if err != nil {
			return b.failed(err, true) // what was told may be counted, so it is not told again
		}
		l.parts[scope] = totals{
			channels: integer(values, 0), readers: integer(values, 1), messages: integer(values, 2), inFlight: integer(values, 3),
			bytes: integer(values, 4), held: integer(values, 5), heldBytes: integer(values, 6),
		}
		names, _ := values[7].AsStrSlice()
		for _, name := range names {
			if x, ok := toChannelID(name); ok {
				waiting = append(waiting, x)
			}
		}
	}
	var sum totals
	for _, part := range l.parts {
		sum.channels += part.channels
		sum.readers += part.readers
		sum.messages += part.messages
		sum.inFlight += part.inFlight
		sum.bytes += part.bytes
		sum.held += part.held
		sum.heldBytes += part.heldBytes
	}
	l.current.Store(&sum)
	l.at = time.Now()
	if len(waiting) > 0 {
		b.retry(ctx, waiting)
	}
	return nil
}

// report takes what is to be told to Redis. The lock is held.
func (l *ledger) report(k *keyspace) []scriptCall {
	calls := make([]scriptCall, len(l.scopes))
	for scope := range l.scopes {
		messages, bytes := l.scopes[scope].messages.Swap(0), l.scopes[scope].bytes.Swap(0)
		l.bytes.Add(-bytes)
		calls[scope] = scriptCall{
			[]string{k.counters(scope), k.memory(scope)},
			[]string{"", strconv.FormatInt(messages, 10), strconv.FormatInt(bytes, 10), strconv.Itoa(maxRetries)},
		}
	}
	return calls
}

// retry admits producers that wait for memory. Channels in which some go on waiting are found again.
func (b *Broker) retry(ctx context.Context, channels []channelID) {
	unwait := make([]scriptCall, len(channels))
	calls := make([]scriptCall, len(channels))
	used := strconv.FormatInt(b.ledger.used(), 10)
	for i, x := range channels {
		keys, prefix := b.keys.channelKeys(x)
		unwait[i] = scriptCall{keys[2:], []string{"", string(x[:])}}
		calls[i] = scriptCall{keys, []string{prefix, used}}
	}
	b.runAll(ctx, unwaitScript, unwait)
	for _, reply := range b.runAll(ctx, retryScript, calls) {
		if err := reply.Error(); err != nil {
			b.log.Warn("redis: cannot admit producers that wait for memory", "error", err)
			return
		}
	}
}

// usedUp reports whether the memory for messages is used up.
func (b *Broker) usedUp(limit int64) bool {
	l := b.ledger
	if told := l.bytes.Load(); told > limit/64 || told < -limit/64 {
		b.refreshSoon(0) // so that nodes together do not exceed the limit by much
	}
	if l.used() < limit {
		return false
	}
	b.refreshSoon(10 * time.Millisecond)
	return l.used() >= limit
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
