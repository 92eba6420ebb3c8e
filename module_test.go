package megaphone_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/coder/websocket"

	"github.com/caddy-megaphone/megaphone"
)

func init() {
	caddy.RegisterModule(brokenApp{})
	httpcaddyfile.RegisterGlobalOption("broken", func(d *caddyfile.Dispenser, _ any) (any, error) {
		d.Next()
		d.NextArg()
		return httpcaddyfile.App{Name: "broken", Value: []byte(`{"at":"` + d.Val() + `"}`)}, nil
	})
}

// A brokenApp fails when a configuration with it is loaded.
type brokenApp struct {
	At string `json:"at"`
}

var errBroken = errors.New("broken on purpose")

func (brokenApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "broken", New: func() caddy.Module { return new(brokenApp) }}
}

func (b *brokenApp) Provision(ctx caddy.Context) error {
	if b.At == "provision" {
		if _, err := ctx.App("megaphone"); err != nil { // is provisioned before this one fails
			return err
		}
		return errBroken
	}
	return nil
}

func (b *brokenApp) Start() error {
	if b.At == "start" {
		duringBrokenStart()
		return errBroken
	}
	return nil
}

// duringBrokenStart is called before an app fails to start. Caddy starts apps in an order that changes each time.
var duringBrokenStart = func() {}

// loadsThatFailToStart loads a configuration that fails to start, again and again until both have been: Megaphone was
// started before, and it was not yet. It calls during once for each, in the midst of it.
func (s *server) loadsThatFailToStart(settings string, during func(started bool)) {
	s.Helper()
	seen := map[bool]bool{}
	duringBrokenStart = func() {
		started := megaphone.Started() > 1 // and not only the running configuration
		if !seen[started] {
			seen[started] = true
			during(started)
		}
	}
	defer func() { duringBrokenStart = func() {} }()
	for len(seen) < 2 {
		if s.Context().Err() != nil {
			s.Fatalf("Caddy has started its apps in one order only: %v", seen)
		}
		s.failsToLoad("broken start\n"+settings, "megaphone")
	}
}

// failsToLoad loads a configuration, which must fail as a brokenApp does. Its site has an address of its own: when one
// that was started is stopped in vain, Caddy 2.11.9 cannot listen again on a Unix socket that was in use before.
func (s *server) failsToLoad(settings, site string) {
	s.Helper()
	elsewhere := *s
	elsewhere.socket += "2"
	if err := elsewhere.load(settings, site); err == nil || !strings.Contains(err.Error(), errBroken.Error()) {
		s.Fatalf("load: %v", err)
	}
}

func (b *brokenApp) Stop() error { return nil }

func TestReload(t *testing.T) {
	const settings = "megaphone {\nbuffer 1\nread_duration 1s\nhold 20s\n}" // so long that a reload takes less
	load := func(settings string, fails bool) func(*server) {
		return func(s *server) {
			if err := s.load(settings, "megaphone"); (err != nil) != fails {
				s.Fatalf("load: %v", err)
			}
		}
	}
	for name, reload := range map[string]func(*server){
		"with the same settings":             load(settings, false),
		"with other settings":                load(strings.Replace(settings, "buffer 1", "buffer 2\nagent other", 1), false),
		"without settings":                   load("", false),
		"that fails when it is provisioned":  load("broken provision\n"+settings, true),
		"that fails in megaphone's settings": load("megaphone {\nagent {env.NOT_SET_ANYWHERE}\n}", true),
		"that fails when it is started":      func(s *server) { s.loadsThatFailToStart(settings, func(bool) {}) },
	} {
		t.Run(name, func(t *testing.T) {
			settings, readDuration := settings, time.Second
			if strings.Contains(name, "started") { // takes its time
				readDuration = 5 * time.Second
				settings = strings.Replace(settings, "1s", "5s", 1)
			}
			s := serve(t, settings, "megaphone")
			open, full := s.create(), s.create()
			start := time.Now()
			read := s.read("/read/" + open.ConsumerAddress)
			s.write(full, "1")
			held := make(chan reply, 1)
			go func() { held <- s.post("/write/"+full.ProducerAddress+"/s", `"held"`) }()
			s.eventually(func() bool { return megaphone.HeldBytes() > 0 })
			s.write(open, "1")
			read.wants("1")

			reload(s)
			// A reader that comes by the new configuration finds the channel taken.
			s.get("/read/"+open.ConsumerAddress+"?poll=0").wantError(t, 409, "BUSY")
			s.write(open, "2")
			read.wants("2")
			select {
			case r := <-held:
				t.Fatalf("the held write ended: %d %s", r.StatusCode, r.body)
			default:
			}
			s.read("/read/"+full.ConsumerAddress).wants("1", `"held"`)
			if r := <-held; r.StatusCode != http.StatusCreated {
				t.Errorf("the held write: %d %s", r.StatusCode, r.body)
			}
			read.ends()
			if took := time.Since(start); took < readDuration {
				t.Errorf("the read lasted %v", took)
			}
		})
	}
}

// Each configuration's requests have its settings, and all of them one channel, one line of waiting producers, and
// one reader.
func TestConfigurationsShareChannels(t *testing.T) {
	const settings = "megaphone {\nbuffer 1\nhold 10s\n}"
	s := serve(t, settings, "megaphone")
	c := s.create()
	read := s.read("/read/" + c.ConsumerAddress + "?after=")
	full := s.create()
	s.write(full, "1")
	hold := func(body string) <-chan reply {
		held := make(chan reply, 1)
		go func() { held <- s.post("/write/"+full.ProducerAddress+"/s", body) }()
		return held
	}
	first := hold("2")
	s.eventually(func() bool { return megaphone.HeldBytes() > 0 })
	if err := s.load("megaphone {\nbuffer 3\nhold 50ms\n}", "megaphone"); err != nil {
		t.Fatal(err)
	}
	// There would be room by the new settings. But others have come before.
	(<-hold("3")).wantError(t, 503, "TIMEOUT")
	next := s.read("/read/" + full.ConsumerAddress)
	next.wants("1", "2")
	if r := <-first; r.StatusCode != http.StatusCreated {
		t.Errorf("the write that was held: %d %s", r.StatusCode, r.body)
	}

	// A reader of the new configuration takes over from one of the old.
	taking := s.read("/read/" + c.ConsumerAddress + "?after=")
	read.ends()
	s.write(c, "4")
	taking.wants("4")
}

func TestRemovingTheModuleEndsEverything(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 1\n}", "megaphone")
	open, full, socket := s.create(), s.create(), s.create()
	read := s.read("/read/" + open.ConsumerAddress)
	conn := s.dial(socket, "")
	s.write(full, "1")
	held := make(chan reply, 1)
	go func() { held <- s.post("/write/"+full.ProducerAddress+"/s", "2") }()
	s.eventually(func() bool { return megaphone.HeldBytes() > 0 })
	s.write(open, "1")
	read.wants("1")
	if err := s.load("", "respond 204"); err != nil {
		t.Fatal(err)
	}
	read.ends()
	s.closed(conn, websocket.StatusGoingAway)
	(<-held).wantError(t, 503, "TIMEOUT")
	if r := s.get("/read/" + open.ConsumerAddress); r.StatusCode != http.StatusNoContent {
		t.Errorf("a reader that comes by the new configuration: %d %s", r.StatusCode, r.body)
	}

	// Nothing is left: the channels are gone when the module comes back.
	if err := s.load("", "megaphone"); err != nil {
		t.Fatal(err)
	}
	s.get("/read/"+open.ConsumerAddress+"?poll=0").wantError(t, 404, "NOT_FOUND")
}

func TestStoppingEndsReadsCleanly(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	read := s.read("/read/" + c.ConsumerAddress)
	s.write(c, "1")
	read.wants("1")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	read.ends()
}

func TestAReplacedConfigurationEndsItsStreams(t *testing.T) {
	s := serve(t, "megaphone {\nstream_duration 5s\n}", "megaphone")
	events := s.create()
	response := s.open(http.MethodGet, "/read/"+events.ConsumerAddress, http.Header{"Accept": {"text/event-stream"}}, nil)
	var sockets [4]channel
	var conns [4]*websocket.Conn
	for i := range sockets {
		sockets[i] = s.create()
		conns[i] = s.dial(sockets[i], "?after=")
	}
	if err := s.load("", "megaphone"); err != nil {
		t.Fatal(err)
	}
	for _, c := range sockets {
		s.write(c, "1") // by the new configuration, to the stream of the old
	}
	heard := 0
	for i, conn := range conns {
		_, text, err := conn.Read(s.Context())
		if err == nil && strings.HasSuffix(string(text), `"body":1}`) { // or it has ended already: the time is drawn
			heard++
			_, text, err = conn.Read(s.Context())
		}
		if websocket.CloseStatus(err) != websocket.StatusGoingAway {
			t.Fatalf("%q, %v, want that the server goes away", text, err)
		}
		s.hears(s.dial(sockets[i], "?after="), "1") // what was not acknowledged comes again
	}
	if heard == 0 {
		t.Error("what the new configuration is sent does not come to the streams of the old one")
	}
	if _, err := response.Body.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestValidatingLeavesNothingBehind(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	var config caddy.Config
	if err := json.Unmarshal(adapt(t, s.caddyfile("megaphone {\nagent other\n}", "megaphone")), &config); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&config); err != nil {
		t.Fatal(err)
	}
	s.write(c, "1")
	s.read("/read/" + c.ConsumerAddress).wants("1")
}
