package megaphone

import (
	"context"
	"net"
	"testing"
	"testing/synctest"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

// expectPanic returns a function that fails the test unless exactly one panic was reported since, in a place.
func expectPanic(t *testing.T, want guard.Place) (check func()) {
	t.Helper()
	places := make(chan guard.Place, 10)
	before := guard.OnPanic(func(place guard.Place, v any, stack []byte) {
		places <- place
		reportPanic(place, v, stack)
	})
	t.Cleanup(func() { guard.OnPanic(before) })
	return func() {
		t.Helper()
		if len(places) != 1 {
			t.Fatalf("%d panics were reported, want 1", len(places))
		}
		if place := <-places; place != want {
			t.Errorf("a panic was reported in %v, want %v", place, want)
		}
	}
}

// TestAHookOfNewConnectionsThatPanicsClosesTheConnection: net/http calls it in the goroutine that accepts.
func TestAHookOfNewConnectionsThatPanicsClosesTheConnection(t *testing.T) {
	check := expectPanic(t, guard.Connection)
	near, far := net.Pipe()
	defer near.Close()
	ctx := guardHook(func(context.Context, net.Conn) context.Context { panic("boom") })(t.Context(), far)
	if ctx != t.Context() { // net/http panics without a context
		t.Errorf("the hook returned %v", ctx)
	}
	if _, err := near.Write([]byte("x")); err == nil {
		t.Error("the connection is open")
	}
	check()
}

// TestACutAtTheExitThatPanicsHoldsUpNoHandler: the handler waits for the goroutine that cuts its client off.
func TestACutAtTheExitThatPanicsHoldsUpNoHandler(t *testing.T) {
	check := expectPanic(t, guard.Exit)
	synctest.Test(t, func(*testing.T) {
		r := newRegistry(memory.New())
		stop := r.whenClosed(0, func() error { panic("boom") })
		r.Close()
		synctest.Wait()
		stop()
	})
	check()
}

// A panickyCore is the core of a log that panics.
type panickyCore struct{ zapcore.Core }

func (panickyCore) Enabled(zapcore.Level) bool             { return true }
func (c panickyCore) With([]zap.Field) zapcore.Core        { return c }
func (panickyCore) Write(zapcore.Entry, []zap.Field) error { panic("log") }

func (c panickyCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return checked.AddCore(e, c)
}

// TestALogThatPanicsStopsNoDeletions: the goroutine that runs the handlers of deletions logs those that are lost.
func TestALogThatPanicsStopsNoDeletions(t *testing.T) {
	check := expectPanic(t, guard.Event)
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(memory.New())
		defer r.Close()
		app := &App{registry: r, ctx: caddy.Context{Context: t.Context()}, logger: zap.New(panickyCore{zapcore.NewNopCore()})}
		r.later.add(eventBatch{app: app, events: make([]webhook.Event, 1)}) // nobody handles it
		<-r.later.mark()
	})
	check()
}
