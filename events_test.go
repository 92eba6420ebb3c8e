package megaphone_test

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-megaphone/megaphone/internal/workload"
)

func init() { caddy.RegisterModule(eventRecorder{}) }

// An eventRecorder is a handler of Caddy's events that passes them to the test.
type eventRecorder struct{}

var recordedEvents = make(chan caddy.Event, 1000)

func (eventRecorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.record", New: func() caddy.Module { return new(eventRecorder) }}
}

func (*eventRecorder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (*eventRecorder) Handle(ctx context.Context, e caddy.Event) error {
	recordedEvents <- e
	return ctx.Err() // an error if the configuration that emits the event is unloaded
}

// wantEvent waits for the next event. It must have this name and these data.
func (s *server) wantEvent(name string, want map[string]any) {
	s.Helper()
	select {
	case e := <-recordedEvents:
		if e.Name() != name {
			s.Fatalf("event %s %v, want %s", e.Name(), e.Data, name)
		}
		for key, value := range want {
			if e.Data[key] != value {
				s.Errorf("event %s has %v, want %s %v", name, e.Data, key, value)
			}
		}
	case <-time.After(10 * time.Second):
		s.Fatalf("there is no event %s", name)
	}
}

func TestEvents(t *testing.T) {
	const settings = `events {
		on megaphone.channel_created record
		on megaphone.channel_deleted record
		on megaphone.reader_connected record
		on megaphone.reader_disconnected record
	}
	megaphone {
		ttl 500ms
		read_duration 300ms
	}`
	s := serve(t, settings, "megaphone")
	c := s.create()
	s.wantEvent("megaphone.channel_created", map[string]any{"channel": c.ConsumerAddress})
	read := s.read(c)
	s.wantEvent("megaphone.reader_connected", map[string]any{"channel": c.ConsumerAddress, "transport": "ndjson"})
	s.write(c, "1")
	read.wants("1")
	// The read ends when its configuration is gone. The new configuration emits the event.
	s.reload(settings, "megaphone")
	read.ends()
	s.wantEvent("megaphone.reader_disconnected", map[string]any{
		"channel": c.ConsumerAddress, "transport": "ndjson", "ended_by": "complete", "messages": 1,
	})
	s.write(c, "2")
	s.wantEvent("megaphone.channel_deleted", map[string]any{
		"channel": c.ConsumerAddress, "reason": "expired", "undelivered": 1,
	})
}

// TestNoEventsWithoutHandlers checks that a configuration without handlers emits no events, even if an earlier
// configuration had handlers.
func TestNoEventsWithoutHandlers(t *testing.T) {
	s := serve(t, "events {\non megaphone.reader_disconnected record\n}", "megaphone")
	c := s.create()
	read := s.read(c)
	s.reload("", "megaphone")
	read.close()
	s.awaitNoReader(c)
	// The end of the read would emit the event.
	s.eventually(func() bool { return running(t, ".(*openRead).") == 0 })
	select {
	case e := <-recordedEvents:
		t.Errorf("event %s", e.Name())
	default:
	}
}

func init() { caddy.RegisterModule(slowHandler{}) }

// A slowHandler is a handler of Caddy's events that takes some time for each event. It aborts when its configuration is
// unloaded.
type slowHandler struct {
	// Name says which configuration the handler belongs to.
	Name string `json:"name,omitempty"`
	// Delay is how long the handler takes for an event.
	Delay string `json:"delay,omitempty"`
}

// handledBy holds the Name of the slowHandler that has handled the deletion of a channel, by consumer address.
var handledBy sync.Map

func (slowHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.slow", New: func() caddy.Module { return new(slowHandler) }}
}

func (h *slowHandler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	d.Args(&h.Name, &h.Delay)
	return nil
}

func (h *slowHandler) Handle(ctx context.Context, e caddy.Event) error {
	delay, err := time.ParseDuration(h.Delay)
	if err != nil {
		return err
	}
	select {
	case <-time.After(delay):
		handledBy.Store(e.Data["channel"], h.Name)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// oldHandler is the setting of a slowHandler with the name "old". newHandler is the same with the name "new".
const (
	oldHandler = "events {\non megaphone.channel_deleted slow old 2ms\n}\n"
	newHandler = "events {\non megaphone.channel_deleted slow new 2ms\n}\n"
)

// awaitDeletionEvents waits until slowHandlers have handled the deletion of all these channels.
func (s *server) awaitDeletionEvents(channels []channel) {
	s.Helper()
	missing := func() (n int) {
		for _, c := range channels {
			if _, ok := handledBy.Load(c.ConsumerAddress); !ok {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(20 * time.Second); missing() > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("handlers have not got the deletion of %d of %d channels", missing(), len(channels))
		}
	}
}

// TestEveryDeletionIsAnEvent checks that handlers get each deletion at least once, even if configurations are loaded, or
// fail to load, while handlers are behind.
func TestEveryDeletionIsAnEvent(t *testing.T) {
	const site = "megaphone create manage"
	s := serve(t, oldHandler, site)
	var channels []channel
	limit := workload.Duration(t, 600*time.Millisecond)
	for start := time.Now(); time.Since(start) < limit; {
		channels = append(channels, s.createAndDelete(1)...)
		s.failToLoad("broken start\n"+oldHandler, site)
		channels = append(channels, s.createAndDelete(1)...)
		s.failToLoad("broken provision\n"+oldHandler, site)
		channels = append(channels, s.createAndDelete(1)...)
		if err := s.load(oldHandler, site); err != nil { // not reload, which takes longer
			t.Fatal(err)
		}
	}
	s.awaitDeletionEvents(channels)
}

// TestDeletionsBeforeAReloadAreEvents checks that handlers get every deletion before a reload, even if the new
// configuration has no handlers or no Megaphone.
func TestDeletionsBeforeAReloadAreEvents(t *testing.T) {
	for name, reload := range map[string]func(*server){
		"without handlers":       func(s *server) { s.reload("", "megaphone") },
		"without Megaphone":      func(s *server) { s.reload(oldHandler, "respond 204") },
		"with other handlers":    func(s *server) { s.reload(newHandler, "megaphone") },
		"with the same handlers": func(s *server) { s.reload(oldHandler, "megaphone") },
		"that stops Caddy": func(s *server) {
			if err := caddy.Stop(); err != nil {
				s.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, oldHandler, "megaphone create manage")
			channels := s.createAndDelete(50)
			reload(s)
			s.awaitDeletionEvents(channels)
		})
	}
}

// TestDeletionsBeforeAReloadWithADebugLogAreEvents checks that a new configuration with a log of level DEBUG does not
// count as one with handlers. Such a log sees all events, but does not replace the handlers of the old configuration.
func TestDeletionsBeforeAReloadWithADebugLogAreEvents(t *testing.T) {
	for name, include := range map[string]string{"of everything": "", "of events only": "include events"} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, strings.Replace(oldHandler, "2ms", "25ms", 1), "megaphone create manage")
			channels := s.createAndDelete(20)
			// The global option debug would not do: Caddy ignores it for a log that is discarded.
			s.reload(fmt.Sprintf("log debugging {\noutput file %s {\nroll_disabled\n}\nlevel DEBUG\n%s\n}",
				filepath.Join(t.TempDir(), "log"), include), "megaphone")
			s.awaitDeletionEvents(channels)
		})
	}
}

func init() { caddy.RegisterModule(hangingHandler{}) }

// A hangingHandler is a handler of Caddy's events that does not return until the test allows it, even if its
// configuration is unloaded.
type hangingHandler struct{}

var (
	hangingCalls = make(chan struct{}, 1000) // receives a value for each call of a hangingHandler
	hangUntil    = make(chan struct{})       // hangingHandlers return when it is closed
)

func (hangingHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.hang", New: func() caddy.Module { return new(hangingHandler) }}
}

func (*hangingHandler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (*hangingHandler) Handle(context.Context, caddy.Event) error {
	until := hangUntil
	hangingCalls <- struct{}{}
	<-until
	return nil
}

// TestAHandlerThatHangsDelaysOnlyItsConfiguration checks that the handlers of the next configuration get the deletion for
// which the handler hangs, those behind it, and later ones.
func TestAHandlerThatHangsDelaysOnlyItsConfiguration(t *testing.T) {
	s := serve(t, "events {\non megaphone.channel_deleted hang\n}", "megaphone create manage")
	hangUntil = make(chan struct{})
	t.Cleanup(func() { close(hangUntil) }) // before Caddy is stopped
	channels := s.createAndDelete(3)
	select {
	case <-hangingCalls:
	case <-s.Context().Done():
		t.Fatal("the handler is not called")
	}
	s.reload(oldHandler, "megaphone create manage")
	s.awaitDeletionEvents(append(channels, s.createAndDelete(3)...))
	if n := len(hangingCalls); n > 0 {
		t.Errorf("the handler that hangs is called %d more times", n)
	}
}

// TestAFailedLoadChangesNothing checks that the running configuration stays the active one while a configuration starts
// that will fail: its handlers get the events, and its max_memory counts.
func TestAFailedLoadChangesNothing(t *testing.T) {
	s := serve(t, oldHandler+"megaphone {\nmax_memory 64MiB\n}", "megaphone create manage")
	s.failToStart(newHandler+"megaphone {\nmax_memory 64GiB\n}", func(started bool) {
		channels := s.createAndDelete(1)
		s.awaitDeletionEvents(channels)
		if name, _ := handledBy.Load(channels[0].ConsumerAddress); name != "old" {
			t.Errorf("the configuration that fails has handled a deletion (its Megaphone was started: %v)", started)
		}
		if limit := debug.SetMemoryLimit(-1); limit > 32<<30 {
			t.Errorf("the memory limit is %d MiB (its Megaphone was started: %v)", limit>>20, started)
		}
	})
	s.awaitDeletionEvents(s.createAndDelete(1))
}
