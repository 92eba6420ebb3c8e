package disk

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// TestAPanicBesideTheWritesIsAFaultOfTheJournal lets each operation panic that happens on the journal's own goroutines.
// Nobody waits for ever, and it goes on by itself.
func TestAPanicBesideTheWritesIsAFaultOfTheJournal(t *testing.T) {
	var panics atomic.Int32
	before := guard.OnPanic(func(guard.Place, any, []byte) { panics.Add(1) })
	defer func() { guard.OnPanic(before) }()
	for _, operation := range []string{"sync", "create", "remove", "has", "open"} {
		synctest.Test(t, func(t *testing.T) {
			durability := Process
			if operation == "sync" {
				durability = Disk // somebody waits for it
			}
			f := newFaulty(t, durability)
			panics.Store(0)
			time.Sleep(2 * retryInterval)
			synctest.Wait()
			f.folder.failWith(func(o, _ string) error {
				if o == operation && panics.Load() == 0 {
					panic(operation)
				}
				return nil
			})
			l := f.broker.log
			for written := 0; panics.Load() == 0 && written < 2000; written++ {
				if operation == "sync" {
					f.write(broker.ErrOutcomeUnknown)
				} else {
					f.write(nil)
					f.settleAll()
				}
				time.Sleep(time.Millisecond)
				synctest.Wait()
			}
			if panics.Load() == 0 {
				t.Fatalf("%s does not panic", operation)
			}
			f.folder.failWith(nil)
			time.Sleep(4 * retryInterval)
			if err := l.Health(); err != nil {
				t.Errorf("after a panic in %s: %v", operation, err)
			}
			f.write(nil)
			f.has(f.broker)
		})
	}
}

// settleAll lets a reader settle all messages.
func (f *faulty) settleAll() {
	f.Helper()
	s, err := f.broker.Subscribe(f.Context(), f.a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits, Acknowledged: true})
	if err != nil {
		f.Fatal(err)
	}
	for ms, _ := s.Take(nil, 1<<20); len(ms) > 0; ms, _ = s.Take(nil, 1<<20) {
		s.Settle(ms[len(ms)-1].ID())
	}
	s.End(broker.EndFault)
	f.lines = nil
}
