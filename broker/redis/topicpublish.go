package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/histogram"
)

// noteLeft is the note of a message that waited in a member which has left the topic.
const noteLeft = 5

// PublishTopic implements [broker.Topics].
func (b *Broker) PublishTopic(
	ctx context.Context, topic string, m *broker.Message, full broker.WhenFull, l broker.Limits,
) (broker.Published, error) {
	if err := b.ready(ctx); err != nil {
		return broker.Published{}, err
	}
	w := b.newWalk(topic, m, &l)
	w.full = full
	err := w.run(ctx)
	if waitErr := w.wait(ctx); err == nil {
		err = waitErr
	}
	if deleteErr := b.deleteAll(w.deletes); err == nil {
		err = deleteErr
	}
	if err != nil {
		return broker.Published{}, err
	}
	return w.result, nil
}

// deleteAll removes channels. If it fails, the error is ErrOutcomeUnknown.
func (b *Broker) deleteAll(channels []channelID) error {
	for some := range slices.Chunk(channels, maxVisited) {
		calls := make([]scriptCall, len(some))
		for i, x := range some {
			calls[i] = b.deleteCall(x)
		}
		for i, reply := range b.runAll(b.background, deleteScript, calls) {
			if err := b.deleted(some[i], reply); err != nil && !errors.Is(err, broker.ErrNotFound) {
				return unknown(err)
			}
		}
	}
	return nil
}

// CloseTopic implements [broker.Topics].
func (b *Broker) CloseTopic(ctx context.Context, topic string, end *broker.Message, l broker.Limits) error {
	if err := b.ready(ctx); err != nil {
		return err
	}
	w := b.newWalk(topic, end, &l)
	w.closes = true
	if err := w.run(ctx); err != nil && !errors.Is(err, broker.ErrTopicClosed) {
		return err
	}
	return nil
}

// wait waits for members in which the message waits.
func (w *walk) wait(ctx context.Context) error {
	if len(w.held) == 0 {
		return nil
	}
	b, hold := w.broker, shortHold
	if w.full == broker.FullHold {
		hold = max(hold, w.limits.Hold)
	}
	timer := time.NewTimer(hold)
	defer timer.Stop()
	var late []*waiter
	over, unknown := false, false
	for _, waits := range w.held {
		if !over {
			select {
			case n := <-waits.notes:
				unknown = w.noted(waits, n) || unknown
				continue
			case <-timer.C:
			case <-ctx.Done():
			case <-b.closing:
			}
			over = true
		}
		select {
		case n := <-waits.notes:
			unknown = w.noted(waits, n) || unknown
		default:
			late = append(late, waits)
		}
	}
	unknown = w.giveUp(late) || unknown
	for _, waits := range w.held {
		b.waiters.remove(waits)
	}
	if unknown {
		return fmt.Errorf("%w: redis: it waited for room in a channel", broker.ErrOutcomeUnknown)
	}
	return nil
}

// noted takes note of what has become of the message in a member. It reports whether that is not known.
func (w *walk) noted(waits *waiter, n note) (unknown bool) {
	b, it := w.broker, waits.item
	switch n.status {
	case noteTaken:
		w.result.Accepted++
		return b.countNoted(it, n) != nil
	case noteTooLate:
		w.miss(it.x)
	case noteNotFound, noteLeft:
	default:
		return true
	}
	return false
}

// countNoted counts what has become of an item that waited. Its error tells that it is not known whether that is safe.
func (b *Broker) countNoted(it *item, n note) error {
	taken := max(0, n.accepted-n.duplicates)
	b.stats.accepted.Add(uint64(taken))
	b.stats.duplicates.Add(uint64(n.duplicates)) //nolint:gosec // not negative
	b.stats.countMerged(n.replaced, n.appended)
	b.stats.wait.Observe(histogram.Wait, time.Since(it.begun), taken)
	if taken > 0 && b.options.Durability.waits() {
		return b.barriers[b.keys.scopeOf(it.x.partition())].pass()
	}
	return nil
}

// miss takes note that a member has missed the message.
func (w *walk) miss(x channelID) {
	w.result.Full++
	w.broker.stats.skipped.Add(1)
	if w.full == broker.FullDelete {
		w.deletes = append(w.deletes, x)
	}
}

// giveUp withdraws the message where it waits. It reports whether it is not known what has become of it somewhere. If Redis does not
// answer, it asks no more: the message may get in.
func (w *walk) giveUp(late []*waiter) (unknown bool) {
	var gone []gaveUp
	for some := range slices.Chunk(late, maxVisited) {
		answers := false
		for i, reply := range w.broker.runWithdraw(some, false) {
			code, err := w.gaveUp(some[i], reply)
			if answers = answers || err == nil; err != nil {
				unknown = true
			} else if code != 0 {
				gone = append(gone, gaveUp{some[i], code == -3})
			}
		}
		if !answers {
			break
		}
	}
	notes := newLateNotes()
	for _, g := range gone { // it was admitted, or the member has left or was deleted: there is a note of it
		n := notes.note(g.waits)
		if n.status == noteLost && g.holds {
			n = g.waits.item.allTaken()
		}
		unknown = w.noted(g.waits, n) || unknown
	}
	return unknown
}

// A gaveUp is a member in which the message does not wait any more. holds tells that its channel holds the message.
type gaveUp struct {
	waits *waiter
	holds bool
}

// gaveUp takes the reply to one withdrawal. The code is 0 if the message waited, or else that of lua/withdraw.lua.
func (w *walk) gaveUp(waits *waiter, reply rueidis.RedisResult) (code int64, err error) {
	values, err := reply.ToArray()
	switch {
	case err != nil || len(values) != 6:
		return reply.AsInt64()
	case integer(values, 0) == 0:
		w.miss(waits.item.x)
	default:
		err = w.broker.countNoted(waits.item, note{
			accepted: 1, duplicates: int(integer(values, 1)), replaced: int(integer(values, 4)), appended: int(integer(values, 5)),
		})
		w.result.Accepted++
	}
	return 0, err
}

// countAlone counts an end that has waited until what was before it in a channel had got in.
func (b *Broker) countAlone(it *item, n note) {
	if n.status == noteTaken {
		b.stats.accepted.Add(uint64(max(0, n.accepted-n.duplicates)))
		b.stats.wait.Observe(histogram.Wait, time.Since(it.begun), max(0, n.accepted-n.duplicates))
	}
}
