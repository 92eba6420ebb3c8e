package disk

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/history"
)

// An act is something that a test notes: before it is tried, and when it has succeeded.
type act byte

const (
	creates act = 'c'
	writes  act = 'w'
	settles act = 's'
	deletes act = 'd'
)

// A fact is an act, and when it was.
type fact struct {
	at       int // when: facts of one test have increasing numbers, or equal ones
	act      act
	done     bool // or only begun
	consumer string
	n        int // the number of the message; a channel's messages have increasing numbers
}

// Facts are what producers and consumers did, and what they were told.
type facts []fact

// A track is what facts say of one channel beside its messages.
type track struct {
	created, deleting, deleted bool
	begun                      int   // messages
	written                    []int // in this order
	settling, settled          int   // up to this message
}

// sumUp sums up the facts: of what succeeded, only what did so before a time. The history has the writes.
func (h facts) sumUp(before int) (tracks map[string]*track, all history.History) {
	tracks = map[string]*track{}
	writing := map[string]int{} // values, and where the history has them
	for i, f := range h {
		if f.done && f.at >= before || f.act == keeps || f.act == closes {
			continue
		}
		c := tracks[f.consumer]
		if c == nil {
			c = &track{}
			tracks[f.consumer] = c
		}
		switch {
		case f.act == knows, f.act == joins, f.act == leaves, f.act == misses: // see ofTopics
		case f.act == creates && f.done:
			c.created = true
		case f.act == writes && f.done:
			w := &all.Writes[writing[value(f.consumer, f.n)]]
			w.Outcome, w.End = history.Accepted, time.Duration(i)
			c.written = append(c.written, f.n)
		case f.act == writes:
			c.begun++
			writing[value(f.consumer, f.n)] = len(all.Writes)
			all.Writes = append(all.Writes, history.Write{
				Channel: f.consumer, Value: value(f.consumer, f.n), Start: time.Duration(i), End: time.Duration(len(h)),
			})
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
	all.Faults = []history.Fault{{Name: "the crash", End: time.Duration(len(h))}}
	return tracks, all
}

// value identifies a message in a history. A batch writes it to several channels.
func value(consumer string, n int) string { return fmt.Sprint(consumer, " ", n) }

// check compares a Broker that was opened after a crash with the facts before it. What consumers tried to settle they have
// seen. With what is there now, that must be a history without faults. Channels must be there, or not, as clients were told. If
// settlesHold, nothing may come again that was settled. It returns how many messages it has seen.
func (h facts) check(tb testing.TB, b *Broker, before int, settlesHold bool) (seen int) {
	tb.Helper()
	tracks, all := h.sumUp(before)
	all.Undelivered = map[string]int{}
	for consumer, c := range tracks {
		ms, err := b.Peek(tb.Context(), consumer, 1<<30)
		switch {
		case err != nil && c.created && !c.deleting:
			tb.Errorf("the channel %s is gone: %v", consumer, err)
		case err == nil && c.deleted:
			tb.Errorf("the channel %s was deleted and is there", consumer)
		}
		if err != nil {
			all.Undelivered[consumer] = c.begun
			continue
		}
		numbers := numbersOf(ms)
		if settlesHold && len(numbers) > 0 && numbers[0] <= c.settled {
			tb.Errorf("the channel %s has %v, and messages up to %d were settled", consumer, numbers, c.settled)
		}
		all.Deliveries = append(all.Deliveries, c.deliveries(consumer, numbers)...)
		seen += len(numbers)
	}
	for _, fault := range all.Check() {
		tb.Error(fault)
	}
	h.checkTopics(tb, b, before, settlesHold)
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

// deliveries returns what a channel's consumer has seen when it has read what is there: first what it tried to settle and what
// is not there any more. No event id repeats, for nothing may be there twice.
func (c *track) deliveries(consumer string, there []int) (all []history.Delivery) {
	deliver := func(n int) {
		all = append(all, history.Delivery{Channel: consumer, EventID: strconv.Itoa(len(all)), Value: value(consumer, n)})
	}
	for _, n := range c.written {
		if n <= c.settling && !slices.Contains(there, n) {
			deliver(n)
		}
	}
	for _, n := range there {
		deliver(n)
	}
	return all
}

// numbersOf returns the numbers of messages. One that no test has written has -1, and the end of a topic has none.
func numbersOf(ms []*broker.Message) (numbers []int) {
	for _, m := range ms {
		n, err := strconv.Atoi(string(m.Body()[:min(8, len(m.Body()))]))
		if err != nil {
			n = -1
		}
		if m.End() == "" {
			numbers = append(numbers, n)
		}
	}
	return numbers
}
