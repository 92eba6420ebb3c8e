package megaphone_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
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
	return ctx.Err() // so that an event from an unloaded configuration is told apart
}

// event waits for the next event, which must be of this name and with these data.
func (s *server) event(name string, want map[string]any) {
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
		ttl 2s
		read_duration 1s
	}`
	s := serve(t, settings, "megaphone")
	c := s.create()
	s.event("megaphone.channel_created", map[string]any{"channel": c.ConsumerAddress})
	read := s.read("/read/" + c.ConsumerAddress)
	s.event("megaphone.reader_connected", map[string]any{"channel": c.ConsumerAddress, "transport": "ndjson"})
	s.write(c, "1")
	read.wants("1")
	// The read ends after its configuration is gone; the event comes all the same, by the new one.
	if err := s.load(settings, "megaphone"); err != nil {
		t.Fatal(err)
	}
	read.ends()
	s.event("megaphone.reader_disconnected", map[string]any{
		"channel": c.ConsumerAddress, "transport": "ndjson", "ended_by": "complete", "messages": 1,
	})
	s.write(c, "2")
	s.event("megaphone.channel_deleted", map[string]any{
		"channel": c.ConsumerAddress, "reason": "expired", "undelivered": 1,
	})
}

// TestNoEventsWhenNobodyListens: a configuration without handlers stays silent, whatever an earlier one had.
func TestNoEventsWhenNobodyListens(t *testing.T) {
	s := serve(t, "events {\non megaphone.reader_disconnected record\n}", "megaphone")
	c := s.create()
	read := s.read("/read/" + c.ConsumerAddress)
	if err := s.load("", "megaphone"); err != nil {
		t.Fatal(err)
	}
	read.close()
	s.eventuallyFree(c)
	s.eventually(func() bool { return !s.runs("(*openRead).") }) // by when handlers would have been told
	select {
	case e := <-recordedEvents:
		t.Errorf("event %s", e.Name())
	default:
	}
}

func init() { caddy.RegisterModule(slowTeller{}) }

// A slowTeller is a handler of Caddy's events that takes some time for each, and is ended with its configuration.
type slowTeller struct {
	// Name is the configuration's.
	Name string `json:"name,omitempty"`
	// Delay is how long it takes.
	Delay string `json:"delay,omitempty"`
}

// told has who was told of a channel's deletion.
var told sync.Map // from consumer address to Name

func (slowTeller) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.slow", New: func() caddy.Module { return new(slowTeller) }}
}

func (h *slowTeller) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	d.Args(&h.Name, &h.Delay)
	return nil
}

func (h *slowTeller) Handle(ctx context.Context, e caddy.Event) error {
	delay, err := time.ParseDuration(h.Delay)
	if err != nil {
		return err
	}
	select {
	case <-time.After(delay):
		told.Store(e.Data["channel"], h.Name)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

const tellingSettings = "events {\non megaphone.channel_deleted slow old 2ms\n}\n"

// delete creates channels and deletes them.
func (s *server) delete(n int) (channels []channel) {
	s.Helper()
	for range n {
		c := s.create()
		if r := s.do(http.MethodDelete, "/channel/"+c.ProducerAddress, nil, nil); r.StatusCode != http.StatusOK {
			s.Fatalf("delete: %d %s", r.StatusCode, r.body)
		}
		channels = append(channels, c)
	}
	return channels
}

// areTold waits until handlers of the event were told of all these channels.
func (s *server) areTold(channels []channel) {
	s.Helper()
	missing := func() (n int) {
		for _, c := range channels {
			if _, ok := told.Load(c.ConsumerAddress); !ok {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(20 * time.Second); missing() > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("handlers were not told of %d of %d channels", missing(), len(channels))
		}
	}
}

// TestEveryDeletionIsAnEvent: handlers of Caddy's event are told of each deletion once or more, though configurations
// are replaced, or fail to be, while the handlers are behind.
func TestEveryDeletionIsAnEvent(t *testing.T) {
	s := serve(t, tellingSettings, "megaphone create manage")
	var channels []channel
	for start := time.Now(); time.Since(start) < 3500*time.Millisecond; {
		channels = append(channels, s.delete(1)...)
		s.failsToLoad("broken start\n"+tellingSettings, "megaphone create manage")
		channels = append(channels, s.delete(1)...)
		s.failsToLoad("broken provision\n"+tellingSettings, "megaphone create manage")
		channels = append(channels, s.delete(1)...)
		if err := s.load(tellingSettings, "megaphone create manage"); err != nil {
			t.Fatal(err)
		}
	}
	s.areTold(channels)
}

// TestEventsBeforeTheirHandlersAreGone: what was deleted before a reload is told, though the new configuration has no
// handlers, or even no Megaphone.
func TestEventsBeforeTheirHandlersAreGone(t *testing.T) {
	for name, load := range map[string]func(*server) error{
		"without handlers":     func(s *server) error { return s.load("", "megaphone") },
		"without Megaphone":    func(s *server) error { return s.load(tellingSettings, "respond 204") },
		"without anything":     func(*server) error { return caddy.Stop() },
		"with other handlers":  func(s *server) error { return s.load(strings.Replace(tellingSettings, "old", "new", 1), "megaphone") },
		"with those unchanged": func(s *server) error { return s.load(tellingSettings, "megaphone") },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, tellingSettings, "megaphone create manage")
			channels := s.delete(50)
			if err := load(s); err != nil {
				t.Fatal(err)
			}
			s.areTold(channels)
		})
	}
}

// TestEventsBeforeTheirHandlersAreGoneWithDebugLog: a log of level DEBUG sees all events, but it does not stand in for
// the handlers that the old configuration had.
func TestEventsBeforeTheirHandlersAreGoneWithDebugLog(t *testing.T) {
	for name, include := range map[string]string{"of all": "", "of events only": "include events"} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, strings.Replace(tellingSettings, "2ms", "25ms", 1), "megaphone create manage")
			channels := s.delete(40)
			// Not the global option debug: Caddy makes nothing of it for a log that is discarded.
			debugging := fmt.Sprintf("log debugging {\noutput file %s {\nroll_disabled\n}\nlevel DEBUG\n%s\n}", filepath.Join(t.TempDir(), "log"), include)
			if err := s.load(debugging, "megaphone"); err != nil {
				t.Fatal(err)
			}
			s.areTold(channels)
		})
	}
}

func init() { caddy.RegisterModule(hangingTeller{}) }

// A hangingTeller is a handler of Caddy's events that goes on when its configuration is unloaded, until the test lets it
// end.
type hangingTeller struct{}

var (
	hanging = make(chan struct{}, 1000) // receives a value for each call
	unhang  = make(chan struct{})       // is closed to let them end
)

func (hangingTeller) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.hang", New: func() caddy.Module { return new(hangingTeller) }}
}

func (*hangingTeller) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (*hangingTeller) Handle(context.Context, caddy.Event) error {
	end := unhang
	hanging <- struct{}{}
	<-end
	return nil
}

// TestAHandlerThatHangsHoldsUpItsConfigurationOnly: the deletion that it does not get done with, those behind it, and
// later ones are told to the handlers of the next configuration.
func TestAHandlerThatHangsHoldsUpItsConfigurationOnly(t *testing.T) {
	s := serve(t, strings.Replace(tellingSettings, "slow old 2ms", "hang", 1), "megaphone create manage")
	unhang = make(chan struct{})
	t.Cleanup(func() { close(unhang) }) // before Caddy is stopped
	channels := s.delete(3)
	select {
	case <-hanging:
	case <-s.Context().Done():
		t.Fatal("the handler is not called")
	}
	if err := s.load(tellingSettings, "megaphone create manage"); err != nil {
		t.Fatal(err)
	}
	s.areTold(append(channels, s.delete(3)...))
	if len(hanging) > 0 {
		t.Errorf("the handler that hangs was called %d times more", len(hanging))
	}
}

// TestAFailedLoadTakesOverNothing: while a configuration is started that will fail, it is the running one that
// announces, and whose max_memory holds.
func TestAFailedLoadTakesOverNothing(t *testing.T) {
	s := serve(t, tellingSettings+"megaphone {\nmax_memory 64MiB\n}", "megaphone create manage")
	s.loadsThatFailToStart(strings.Replace(tellingSettings, "old", "new", 1)+"megaphone {\nmax_memory 64GiB\n}", func(started bool) {
		channels := s.delete(1)
		s.areTold(channels)
		if name, _ := told.Load(channels[0].ConsumerAddress); name != "old" {
			t.Errorf("the configuration that fails has announced a deletion (it was started: %v)", started)
		}
		if limit := debug.SetMemoryLimit(-1); limit > 32<<30 {
			t.Errorf("the memory limit is %d MiB (started: %v)", limit>>20, started)
		}
	})
	s.areTold(s.delete(1))
}

const hookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
