package disk

import (
	"errors"
	"fmt"
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
)

// TestDebtsThatAreNotPaidAreOwed: the Broker is closed while it writes what it owes. Whoever waits for that must not hear that all of it
// is durable.
func TestDebtsThatAreNotPaidAreOwed(t *testing.T) {
	for _, d := range []Durability{Process, Disk} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				f := newFaulty(t, d)
				f.write(nil)
				l := f.broker.log
				l.halt()
				l.stopped.Wait()
				l.locked(func() { l.owe(journal.ID{Place: 1000}, false) })
				commit := l.Barrier()
				if err := l.payDebts(); !errors.Is(err, errClosed) {
					t.Fatalf("after halt, payDebts returns %v", err)
				}
				f.broker.Close()
				if err := commit.Wait(t.Context()); !errors.Is(err, broker.ErrOutcomeUnknown) {
					t.Errorf("whoever waits for what is owed hears %v", err)
				}
			})
		})
	}
}
