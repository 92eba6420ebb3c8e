package redis_test

import (
	"sync"
	"testing"
	"time"
)

// TestStatsDoNotWaitInTurn: while Redis stands still, each call returns what the node knows, after the time that one call may take.
func TestStatsDoNotWaitInTurn(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	o := s.options("test:")
	o.Timeout = 250 * time.Millisecond
	b := open(t, o)
	if _, err := b.Create(t.Context(), "agent", faultLimits); err != nil {
		t.Fatal(err)
	}
	if n := b.Stats().Channels; n != 1 {
		t.Fatalf("there are %d channels", n)
	}
	s.pause(t)
	defer s.resume(t)
	const calls = 12
	begun := time.Now()
	var all sync.WaitGroup
	for range calls {
		all.Go(func() {
			if n := b.Stats().Channels; n != 1 {
				t.Errorf("a node that cannot ask Redis knows of %d channels", n)
			}
		})
	}
	all.Wait()
	if took := time.Since(begun); took > calls/2*o.Timeout {
		t.Errorf("%d calls at once took %v, with a timeout of %v", calls, took, o.Timeout)
	}
}
