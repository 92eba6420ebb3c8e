package journal_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/internal/journal"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// outcomes collects what continuations are told.
type outcomes chan error

func (o outcomes) Published(err error) { o <- err }

type panics struct{}

func (panics) Published(error) { panic("boom") }

func TestACommitTellsEverybodyOnce(t *testing.T) {
	before := guard.OnPanic(func(guard.Place, any, []byte) {})
	defer func() { guard.OnPanic(before) }()
	synctest.Test(t, func(t *testing.T) {
		const many = 100
		told := make(outcomes, 2*many)
		c := journal.NewCommit()
		for range many {
			c.Then(panics{}) // does no harm to the others
			c.Then(told)
		}
		synctest.Wait()
		if len(told) > 0 || c.IsDurable() {
			t.Error("the commit is durable already")
		}
		c.Finish(nil)
		c.Finish(errors.New("in vain"))
		synctest.Wait()
		if len(told) != many || !c.IsDurable() || c.Wait(t.Context()) != nil {
			t.Errorf("%d were told", len(told))
		}
		c.Then(told)
		(*journal.Commit)(nil).Then(told)
		if len(told) != many+2 {
			t.Error("who comes later is not told at once")
		}
		for range len(told) {
			if err := <-told; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestNobodyWaitsForACommitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(outcomes, 1)
		c := journal.NewCommit()
		c.Then(told)
		gone, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Wait(gone); !errors.Is(err, broker.ErrOutcomeUnknown) || gone.Err() == nil {
			t.Errorf("error %v", err)
		}
		if err := c.Wait(t.Context()); !errors.Is(err, broker.ErrOutcomeUnknown) {
			t.Errorf("error %v", err)
		}
		if err := <-told; !errors.Is(err, broker.ErrOutcomeUnknown) {
			t.Errorf("error %v", err)
		}
	})
}
