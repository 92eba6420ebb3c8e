package megaphone_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/coder/websocket"
)

// TestReload reloads a server again and again, each time with an open read and a held write. The reads go on meanwhile: each
// lasts as long as the configuration says that it began under.
func TestReload(t *testing.T) {
	const (
		settings     = "megaphone {\nbuffer 1\nread_duration 1500ms\nhold 20s\n}" // a reload takes less than that
		readDuration = 1500 * time.Millisecond
	)
	s := serve(t, settings, "megaphone")
	reloads := func(settings string) func(*server) {
		return func(s *server) { s.reload(settings, "megaphone") }
	}
	fails := func(settings string) func(*server) {
		return func(s *server) {
			if err := s.load(settings, "megaphone"); err == nil {
				s.Fatal("the configuration is loaded")
			}
		}
	}
	type result struct {
		name, rest string
		err        error
		took       time.Duration
	}
	ends := make(chan result, 10)
	reads := 0
	for _, test := range []struct {
		name   string
		reload func(*server)
	}{
		{"that fails when it is started", func(s *server) { s.failToStart(settings, func(bool) {}) }},
		{"that fails when it is provisioned", fails("broken provision\n" + settings)},
		{"that fails in Megaphone's settings", fails("megaphone {\nagent {env.NOT_SET_ANYWHERE}\n}")},
		{"with the same settings", reloads(settings)},
		{"with other settings", reloads(strings.Replace(settings, "buffer 1", "buffer 2\nagent other", 1))},
		{"without settings", reloads("")},
	} {
		s.reload(settings, "megaphone")
		open, full := s.create(), s.create()
		start := time.Now()
		read := s.read(open) // until after the subtest
		t.Run(test.name, func(t *testing.T) {
			s, read := s.in(t), read.in(t)
			s.write(full, "1")
			held := s.startWrite(full, `"held"`)
			s.awaitHeldWrite()
			s.write(open, "1")
			read.wants("1")

			test.reload(s)
			// For a reader of the new configuration the channel has a reader.
			s.poll(open).wantError(t, 409, "BUSY")
			s.write(open, "2")
			read.wants("2")
			select {
			case r := <-held:
				t.Fatalf("the held write has ended: %d %s", r.StatusCode, r.body)
			default:
			}
			s.read(full).wants("1", `"held"`)
			(<-held).wantCreated(t)
		})
		reads++
		go func() {
			rest, err := io.ReadAll(read.lines)
			ends <- result{test.name, string(rest), err, time.Since(start)}
		}()
	}
	for range reads {
		if r := <-ends; r.rest != "" || r.err != nil || r.took < readDuration {
			t.Errorf("after a reload %s, the read ends after %v with %q, %v, want at least %v and a clean end", r.name, r.took, r.rest, r.err, readDuration)
		}
	}
}

// TestConfigurationsShareChannels checks that requests have the settings of their own configuration, while all
// configurations share a channel, its line of waiting producers, and its reader.
func TestConfigurationsShareChannels(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 1\nhold 10s\n}", "megaphone")
	c := s.create()
	read := s.readAfter(c, "")
	full := s.create()
	s.write(full, "1")
	first := s.startWrite(full, "2")
	s.awaitHeldWrite()
	s.reload("megaphone {\nbuffer 3\nhold 50ms\n}", "megaphone")
	// The new settings have room for this write, but another write came before it.
	s.tryWrite(full, "3").wantError(t, 503, "TIMEOUT")
	next := s.read(full)
	next.wants("1", "2")
	(<-first).wantCreated(t)

	// A reader of the new configuration takes over from a reader of the old one.
	successor := s.readAfter(c, "")
	read.ends()
	s.write(c, "4")
	successor.wants("4")
}

func TestRemovingTheModuleEndsEverything(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 1\n}", "megaphone")
	open, full, socket := s.create(), s.create(), s.create()
	read := s.read(open)
	conn := s.dial(socket, "")
	s.write(full, "1")
	held := s.startWrite(full, "2")
	s.awaitHeldWrite()
	s.write(open, "1")
	read.wants("1")
	s.reload("", "respond 204")
	read.ends()
	s.wantClose(conn, websocket.StatusGoingAway)
	(<-held).wantError(t, 503, "TIMEOUT")
	if r := s.get(open.readPath()); r.StatusCode != http.StatusNoContent {
		t.Errorf("a read under the new configuration: %d %s", r.StatusCode, r.body)
	}

	// When the module comes back, the channels are gone.
	s.reload("", "megaphone")
	s.poll(open).wantError(t, 404, "NOT_FOUND")
}

func TestStoppingEndsReadsCleanly(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	read := s.read(c)
	s.write(c, "1")
	read.wants("1")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	read.ends()
}

func TestAReplacedConfigurationEndsItsStreams(t *testing.T) {
	const duration = time.Second
	s := serve(t, fmt.Sprintf("megaphone {\nstream_duration %v\n}", duration), "megaphone")
	begun := time.Now()
	events := s.openSSE(s.create())
	var sockets [10]channel
	var conns [len(sockets)]*websocket.Conn
	for i := range sockets {
		sockets[i] = s.create()
		conns[i] = s.dial(sockets[i], "?after=")
	}
	s.reload("", "megaphone")
	for _, c := range sockets {
		s.write(c, "1") // the new configuration accepts it, the old one sends it
	}
	late := time.Since(begun) > duration // on a busy machine, streams may have lasted their time before the reload
	received := 0
	for i, conn := range conns {
		_, text, err := conn.Read(s.Context())
		if err == nil && strings.HasSuffix(string(text), `"body":1}`) { // otherwise the stream has ended: the time is random
			received++
			_, text, err = conn.Read(s.Context())
		}
		if code := websocket.CloseStatus(err); code != websocket.StatusGoingAway && (!late || code != websocket.StatusNormalClosure) {
			t.Fatalf("got %q, %v, want close code %d", text, err, websocket.StatusGoingAway)
		}
		s.wantMessages(s.dial(sockets[i], "?after="), "1") // it was not acknowledged, so it is sent again
	}
	if received == 0 && !late {
		t.Error("the streams of the old configuration do not get messages that the new configuration accepts")
	}
	if _, err := events.Body.Read(make([]byte, 1)); err != nil {
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
	s.read(c).wants("1")
}
