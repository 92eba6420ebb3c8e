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

// TestAllDeletionsThatAreLostAreLogged checks the log while handlers are too slow. There is one line in ten seconds at
// most, but the lines add up to all deletions that were lost.
func TestAllDeletionsThatAreLostAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(memory.New())
		defer r.Close()
		core, logs := observer.New(zap.DebugLevel)
		app := &App{logger: zap.New(core)}
		q := &r.later
		setWaiting := func(waiting int) {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.waiting = waiting
		}
		synctest.Wait() // until the queue waits for a batch
		setWaiting(maxEvents)
		for n := range 5 {
			q.add(eventBatch{app: app, events: make([]webhook.Event, 1+n)})
		}
		setWaiting(0)
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
