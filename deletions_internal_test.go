package megaphone

import (
	"slices"
	"testing"
	"testing/synctest"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

// TestAllDeletionsThatAreLostAreLogged: a line in ten seconds is enough while handlers are too slow, but in the end the
// lines tell of all that was lost.
func TestAllDeletionsThatAreLostAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newRegistry(memory.New())
		defer s.Close()
		core, logs := observer.New(zap.DebugLevel)
		app := &App{logger: zap.New(core)}
		q := &s.deletions
		fill := func(waiting int) {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.waiting = waiting
		}
		synctest.Wait() // it is waiting for a batch
		fill(maxDeletions)
		for n := range 5 {
			q.add(eventBatch{app: app, events: make([]webhook.Event, 1+n)})
		}
		fill(0)
		<-q.mark()
		synctest.Wait()
		var lost []any
		for _, entry := range logs.All() {
			lost = append(lost, entry.ContextMap()["lost"])
		}
		if want := []any{int64(1), int64(14)}; !slices.Equal(lost, want) {
			t.Errorf("logged as lost: %v, want %v", lost, want)
		}
	})
}
