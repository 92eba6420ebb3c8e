package megaphone_test

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

func (s *server) dial(c channel, query string) *websocket.Conn {
	s.Helper()
	conn, response, err := websocket.Dial(s.Context(), "ws://localhost/read/"+c.ConsumerAddress+query, &websocket.DialOptions{HTTPClient: s.client})
	if err != nil {
		s.Fatalf("%v %v", err, response)
	}
	s.Cleanup(func() { conn.CloseNow() })
	return conn
}

// hears reads messages with these bodies from a WebSocket, and returns their event ids.
func (s *server) hears(conn *websocket.Conn, bodies ...string) []string {
	s.Helper()
	var eids []string
	for _, body := range bodies {
		kind, text, err := conn.Read(s.Context())
		if err != nil {
			s.Fatal(err)
		}
		match := regexp.MustCompile(`^\{"sid":"stream","eid":"([^"]+)","ts":"[^"]+","body":(.*)\}$`).FindSubmatch(text)
		if kind != websocket.MessageText || match == nil || string(match[2]) != body {
			s.Fatalf("message %q, want %s", text, body)
		}
		eids = append(eids, string(match[1]))
	}
	return eids
}

func (s *server) closed(conn *websocket.Conn, code websocket.StatusCode) {
	s.Helper()
	if _, text, err := conn.Read(s.Context()); websocket.CloseStatus(err) != code {
		s.Fatalf("%q, %v, want close code %d", text, err, code)
	}
}

func (s *server) say(conn *websocket.Conn, text string) {
	s.Helper()
	if err := conn.Write(s.Context(), websocket.MessageText, []byte(text)); err != nil {
		s.Fatal(err)
	}
}

func TestWebSocketAcknowledges(t *testing.T) {
	s := serve(t, "megaphone {\nin_flight 2\n}", "megaphone create write read manage")
	c := s.create()
	conn := s.dial(c, "")
	s.write(c, "1")
	eids := s.hears(conn, "1")
	s.say(conn, fmt.Sprintf(`{"ack":%q}`, eids[0]))
	s.eventually(func() bool { // until then the reader is a plain one
		return strings.Contains(s.get("/channel/"+c.ConsumerAddress).body, `"inFlight":0`)
	})
	for i := 2; i <= 5; i++ {
		s.write(c, fmt.Sprint(i))
	}
	eids = s.hears(conn, "2", "3")
	// No more until they are acknowledged: an unknown event does nothing.
	s.say(conn, `{"ack":"unknown"}`)
	s.say(conn, fmt.Sprintf(`{"ack":%q}`, eids[0]))
	s.hears(conn, "4")
	conn.CloseNow()

	conn = s.dial(c, "?after=")
	s.hears(conn, "3", "4")
}

func TestWebSocketCloseCodes(t *testing.T) {
	s := serve(t, "megaphone {\nstream_duration 2s\n}", "megaphone")
	c := s.create()
	taken := s.dial(c, "")
	s.get("/read/"+c.ConsumerAddress+"?poll=0").wantError(t, 409, "BUSY")
	conn := s.dial(c, "?after=")
	s.closed(taken, 4409)
	s.closed(conn, websocket.StatusNormalClosure)

	for _, text := range []string{"hello", `{"ack":1}`, `{}`, `[]`} {
		conn := s.dial(c, "?after=")
		s.say(conn, text)
		s.closed(conn, 4400)
	}
	conn = s.dial(c, "?after=")
	if err := conn.Write(t.Context(), websocket.MessageBinary, []byte(`{"ack":"x"}`)); err != nil {
		t.Fatal(err)
	}
	s.closed(conn, 4400)
}

func TestWebSocketHandshakeIsChecked(t *testing.T) {
	s := serve(t, "", `megaphone {
		cors_origins https://*.example.com
	}`)
	c := s.create()
	good := http.Header{
		"Connection": {"keep-alive, Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	with := func(name, value string) http.Header {
		h := good.Clone()
		h.Set(name, value)
		return h
	}
	path := "/read/" + c.ConsumerAddress
	r := s.do(http.MethodGet, path, with("Sec-WebSocket-Version", "8"), nil)
	r.wantError(t, 426, "BAD_REQUEST")
	if r.Header.Get("Sec-WebSocket-Version") != "13" {
		t.Errorf("header %v", r.Header)
	}
	s.do(http.MethodGet, path, with("Sec-WebSocket-Key", "short"), nil).wantError(t, 400, "BAD_REQUEST")
	s.do(http.MethodGet, path, with("Origin", "https://evil.example"), nil).wantError(t, 403, "FORBIDDEN")
	s.do(http.MethodGet, "/read/main.x", good, nil).wantError(t, 404, "NOT_FOUND")
	s.do(http.MethodPost, path, good, nil).wantError(t, 405, "METHOD_NOT_ALLOWED")
	for _, origin := range []string{"http://localhost", "https://www.example.com"} {
		response := s.open(http.MethodGet, path+"?after=", with("Origin", origin), nil)
		if response.StatusCode != http.StatusSwitchingProtocols {
			t.Errorf("origin %s: %s", origin, response.Status)
		}
	}
}

// When Caddy's handler timeouts returns, it sets deadlines again, though the connection was taken over.
func TestAWebSocketOutlivesADeadlineThatWasSetAfterIt(t *testing.T) {
	s := serve(t, "servers {\ntimeouts {\nwrite_idle 200ms\nread_body_idle 200ms\n}\n}\nmegaphone {\nheartbeat 300ms\n}", "route {\ntimeouts {\nwrite_timeout 5s\nread_timeout 5s\n}\nmegaphone create write read manage\n}")
	c := s.create()
	pings := make(chan struct{}, 10)
	conn, _, err := websocket.Dial(s.Context(), "ws://localhost/read/"+c.ConsumerAddress+"?after=", &websocket.DialOptions{
		HTTPClient: s.client,
		OnPingReceived: func(context.Context, []byte) bool {
			select {
			case pings <- struct{}{}:
			default: // nobody waits for it any more
			}
			return true
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	go func() {
		for range 3 {
			<-pings
		}
		if err := s.writeOnce(c, 1); err != nil {
			t.Error(err)
		}
	}()
	eid := s.hears(conn, "1")[0]
	s.say(conn, fmt.Sprintf(`{"ack":%q}`, eid))
	s.eventually(func() bool {
		return strings.Contains(s.get("/channel/"+c.ConsumerAddress).body, `"inFlight":0`)
	})
}
