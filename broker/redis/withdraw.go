package redis

import (
	"fmt"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
)

// A withdrawal is a call whose wait has ended for a reason. outcome gets what has become of it.
type withdrawal struct {
	call    *waiter
	reason  error
	outcome *broker.Outcome
}

// withdraw withdraws a call whose wait has ended for a reason, unless it got in meanwhile.
func (b *Broker) withdraw(call *waiter, reason error) (outcome broker.Outcome) {
	b.withdrawAll([]withdrawal{{call, reason, &outcome}})
	return outcome
}

// withdrawAll withdraws calls. If Redis does not answer, it gives up: the messages of the rest may get in.
func (b *Broker) withdrawAll(late []withdrawal) {
	var gone []withdrawal
	answers := true
	for some := range slices.Chunk(late, maxVisited) {
		if !answers {
			for _, w := range some {
				*w.outcome = b.noted(w.call.item, note{status: noteLost})
			}
			continue
		}
		answers = false
		calls := make([]*waiter, len(some))
		for i, w := range some {
			calls[i] = w.call
		}
		for i, reply := range b.runWithdraw(calls, false) {
			known, answered := b.withdrawn(some[i], reply)
			answers = answers || answered
			if !known {
				gone = append(gone, some[i])
			}
		}
	}
	notes := newLateNotes()
	for _, w := range gone {
		*w.outcome = b.noted(w.call.item, notes.note(w.call))
	}
}

// withdrawn takes the reply to a withdrawal. known is false if it does not say what became of the call, and answered is false if
// there is none.
func (b *Broker) withdrawn(w withdrawal, reply rueidis.RedisResult) (known, answered bool) {
	it := w.call.item
	values, err := reply.ToArray()
	if err == nil && len(values) == 6 {
		*w.outcome = b.refused(it, w.reason, values)
		return true, true
	}
	code, err := reply.AsInt64()
	switch {
	case err != nil:
		// However the call has failed, the messages may get in.
		*w.outcome = broker.Outcome{Accepted: it.accepted, Err: fmt.Errorf("%w: redis: %w", broker.ErrOutcomeUnknown, err)}
		return true, false
	case code == -3:
		*w.outcome = b.noted(it, it.allTaken())
		return true, true
	}
	// It has got in, and what it has written is gone already, maybe with its channel; or Redis has lost it. If it still waited when
	// the channel was deleted, there is a note of that.
	return false, true
}

// refused returns the outcome of a call that was withdrawn, and counts what was refused. values are those of lua/withdraw.lua.
func (b *Broker) refused(it *item, reason error, values []rueidis.RedisMessage) broker.Outcome {
	outcome := b.noted(it, note{
		accepted: int(integer(values, 0)), duplicates: int(integer(values, 1)),
		replaced: int(integer(values, 4)), appended: int(integer(values, 5)),
	})
	if outcome.Err != nil || integer(values, 0) == integer(values, 3) { // it was taken
		return outcome
	}
	left := uint64(len(it.ms) - outcome.Accepted)               //nolint:gosec // not negative
	if reason == broker.ErrTimeout && integer(values, 2) == 1 { //nolint:errorlint // it is that value
		reason = broker.ErrMemoryLimit
		b.stats.refusedMemory.Add(left)
	} else if reason == broker.ErrTimeout || reason == broker.ErrSkipped { //nolint:errorlint // it is that value
		b.stats.refusedFull.Add(left)
	} else if reason != broker.ErrMemoryLimit { //nolint:errorlint // it is that value
		b.stats.withdrawn.Add(left)
	}
	outcome.Err = reason
	return outcome
}

// runWithdraw withdraws calls, or looks what has become of them.
func (b *Broker) runWithdraw(calls []*waiter, look bool) []rueidis.RedisResult {
	withdrawals := make([]scriptCall, len(calls))
	for i, call := range calls {
		it := call.item
		keys, prefix := b.keys.channelKeys(it.x)
		withdrawals[i] = scriptCall{keys, []string{
			prefix, rueidis.BinaryString(appendNumber([]byte(b.node), it.number, 6)), b.bytesElsewhere(it.x),
			text(min(it.limits.MaxMemory, maxMemory)), it.ms[len(it.ms)-1][1:messageHead], text(one(look)),
		}}
	}
	return b.runAll(b.background, withdrawScript, withdrawals)
}

// allTaken is the note for an item of which the channel has taken all.
func (it *item) allTaken() note { return note{accepted: len(it.ms) - it.accepted} }

// noteDelay is how much later than other replies a note may come.
const noteDelay = time.Second

// A lateNotes waits for notes that may come later than other replies: for all together as long as for one.
type lateNotes struct{ over <-chan time.Time }

func newLateNotes() *lateNotes { return &lateNotes{time.After(noteDelay)} }

// note returns the note of a call, or that it is lost.
func (d *lateNotes) note(call *waiter) note {
	select {
	case n := <-call.notes:
		return n
	default:
	}
	select {
	case n := <-call.notes:
		return n
	case <-d.over:
		over := make(chan time.Time)
		close(over)
		d.over = over
	}
	return note{status: noteLost}
}

// resyncWaiters finds the calls of some scopes whose notes were lost. It returns how many calls it has asked for.
func (b *Broker) resyncWaiters(scopes map[int]bool) (asked int) {
	var waiting, lost []*waiter
	for _, call := range b.waiters.snapshot() {
		if it := call.item; len(it.ms) == 0 { // a walk that waits for its turn asks again
			b.waiters.tell(it.number, note{status: noteLost})
		} else if scopes[b.keys.scopeOf(it.x.partition())] {
			waiting = append(waiting, call)
		}
	}
	for some := range slices.Chunk(waiting, maxVisited) {
		answers := false
		for i, reply := range b.runWithdraw(some, true) {
			code, err := reply.AsInt64()
			answers = answers || err == nil
			switch {
			case err != nil || code == 0: // its own time ends the wait
			case code == -3:
				b.waiters.tell(some[i].item.number, some[i].item.allTaken())
			default:
				lost = append(lost, some[i])
			}
		}
		if asked += len(some); !answers {
			break // their own times end the other waits
		}
	}
	if len(lost) == 0 {
		return asked
	}
	select {
	case <-time.After(noteDelay): // they may have got in just now
	case <-b.closing:
	}
	for _, call := range lost {
		b.waiters.tell(call.item.number, note{status: noteLost})
	}
	return asked
}
