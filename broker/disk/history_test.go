package disk

import (
	"slices"
	"strconv"
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
)

// An act is something that a history notes: before it is tried, and when it has succeeded.
type act byte

const (
	creates act = 'c'
	writes  act = 'w'
	settles act = 's'
	deletes act = 'd'
)

// A fact is a part of a history.
type fact struct {
	at       int // when: facts of one history have increasing numbers, or equal ones
	act      act
	done     bool // or only begun
	consumer string
	n        int // the number of the message; a channel's messages have increasing numbers
}

// A history is what producers and consumers did, and what they were told.
type history []fact

// A track is what a history says of one channel.
type track struct {
	created, deleting, deleted bool
	begun                      map[int]bool
	written                    []int
	settling, settled          int // up to this message
}

// tracks sums up a history: of what succeeded, only what did so before a time.
func (h history) tracks(before int) map[string]*track {
	all := map[string]*track{}
	for _, f := range h {
		if f.done && f.at >= before {
			continue
		}
		c := all[f.consumer]
		if c == nil {
			c = &track{begun: map[int]bool{}}
			all[f.consumer] = c
		}
		switch {
		case f.act == creates && f.done:
			c.created = true
		case f.act == writes && f.done:
			c.written = append(c.written, f.n)
		case f.act == writes:
			c.begun[f.n] = true
		case f.act == settles && f.done:
			c.settled = max(c.settled, f.n)
		case f.act == settles:
			c.settling = max(c.settling, f.n)
		case f.act == deletes && f.done:
			c.deleted = true
		case f.act == deletes:
			c.deleting = true
		}
	}
	return all
}

// check compares a Broker that was opened after a crash with the history before it. Everything that was written must be
// there, in order, unless somebody tried to settle it or to delete its channel. Nothing may be there that nobody has
// written. If settlesHold, nothing may come again that was settled. It returns how many messages it has seen.
func (h history) check(tb testing.TB, b broker.Broker, before int, settlesHold bool) (seen int) {
	tb.Helper()
	tracks := h.tracks(before)
	for consumer, c := range tracks {
		ms, err := b.Peek(tb.Context(), consumer, 1<<30)
		switch {
		case err != nil && c.created && !c.deleting:
			tb.Errorf("the channel %s is gone: %v", consumer, err)
		case err == nil && c.deleted:
			tb.Errorf("the channel %s was deleted and is there", consumer)
		}
		if err != nil {
			continue
		}
		var numbers []int
		for _, m := range ms {
			n, err := strconv.Atoi(string(m.Body()[:min(8, len(m.Body()))]))
			if err != nil || !c.begun[n] {
				tb.Errorf("the channel %s has the message %.200s, which nobody has written", consumer, m.Line())
			}
			numbers = append(numbers, n)
		}
		seen += len(numbers)
		if !slices.IsSorted(numbers) || len(slices.Compact(slices.Clone(numbers))) != len(numbers) {
			tb.Errorf("the channel %s has its messages in the order %v", consumer, numbers)
		}
		for _, n := range c.written {
			if n > c.settling && !slices.Contains(numbers, n) {
				tb.Errorf("the channel %s has %v, and the message %d was written", consumer, numbers, n)
			}
		}
		if settlesHold && len(numbers) > 0 && numbers[0] <= c.settled {
			tb.Errorf("the channel %s has %v, and messages up to %d were settled", consumer, numbers, c.settled)
		}
	}
	page, err := b.List(tb.Context(), broker.ListOptions{Limit: 1 << 20})
	if err != nil {
		tb.Fatal(err)
	}
	for _, c := range page.Channels {
		if tracks[c.Consumer] == nil && c.Pending+c.InFlight > 0 {
			tb.Errorf("there is a channel %s with messages that nobody knows", c.Consumer)
		}
	}
	return seen
}
