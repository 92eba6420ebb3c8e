package megaphone_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// dial reads a channel over a WebSocket.
func (s *server) dial(c channel, query string) *websocket.Conn {
	s.Helper()
	conn, response, err := websocket.Dial(s.Context(), "ws://localhost"+c.readPath()+query, &websocket.DialOptions{HTTPClient: s.client})
	if err != nil {
		s.Fatalf("%v %v", err, response)
	}
	s.Cleanup(func() { conn.CloseNow() })
	return conn
}

// wantMessages waits for messages with these bodies, and returns their event ids.
func (s *server) wantMessages(conn *websocket.Conn, bodies ...string) []string {
	s.Helper()
	var eids []string
	for _, body := range bodies {
		kind, text, err := conn.Read(s.Context())
		if err != nil {
			s.Fatal(err)
		}
		match := regexp.MustCompile(`^\{"sid":"stream","eid":"([^"]+)","ts":"[^"]+","body":(.*)\}$`).FindSubmatch(text)
		if kind != websocket.MessageText || match == nil || string(match[2]) != body {
			s.Fatalf("got %q, want a message with the body %s", text, body)
		}
		eids = append(eids, string(match[1]))
	}
	return eids
}

// wantClose waits until the server ends a WebSocket with this code.
func (s *server) wantClose(conn *websocket.Conn, code websocket.StatusCode) {
	s.Helper()
	if _, text, err := conn.Read(s.Context()); websocket.CloseStatus(err) != code {
		s.Fatalf("got %q, %v, want close code %d", text, err, code)
	}
}

func (s *server) sendText(conn *websocket.Conn, text string) {
	s.Helper()
	if err := conn.Write(s.Context(), websocket.MessageText, []byte(text)); err != nil {
		s.Fatal(err)
	}
}

// awaitNothingInFlight waits until a channel has no messages in flight. The site must serve manage.
func (s *server) awaitNothingInFlight(c channel) {
	s.Helper()
	s.eventually(func() bool {
		return strings.Contains(s.get("/channel/"+c.ConsumerAddress).body, `"inFlight":0`)
	})
}

func TestWebSocketAcknowledgements(t *testing.T) {
	s := serve(t, "megaphone {\nin_flight 2\n}", "megaphone create write read manage")
	c := s.create()
	conn := s.dial(c, "")
	s.write(c, "1")
	eids := s.wantMessages(conn, "1")
	s.sendText(conn, fmt.Sprintf(`{"ack":%q}`, eids[0]))
	s.awaitNothingInFlight(c) // now the reader is an acknowledging one
	for i := 2; i <= 5; i++ {
		s.write(c, fmt.Sprint(i))
	}
	eids = s.wantMessages(conn, "2", "3")
	// The window is full until messages are acknowledged. An unknown event acknowledges nothing.
	s.sendText(conn, `{"ack":"unknown"}`)
	s.sendText(conn, fmt.Sprintf(`{"ack":%q}`, eids[0]))
	s.wantMessages(conn, "4")
	conn.CloseNow()

	conn = s.dial(c, "?after=")
	s.wantMessages(conn, "3", "4")
}

func TestWebSocketCloseCodes(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	first := s.dial(c, "")
	s.poll(c).wantError(t, 409, "BUSY")
	s.dial(c, "?after=") // takes over
	s.wantClose(first, 4409)

	for _, text := range []string{"hello", `{"ack":1}`, `{}`, `[]`} {
		conn := s.dial(c, "?after=")
		s.sendText(conn, text)
		s.wantClose(conn, 4400)
	}
	conn := s.dial(c, "?after=")
	if err := conn.Write(t.Context(), websocket.MessageBinary, []byte(`{"ack":"x"}`)); err != nil {
		t.Fatal(err)
	}
	s.wantClose(conn, 4400)

	s.reload("megaphone {\nstream_duration 50ms\n}", "megaphone")
	s.wantClose(s.dial(c, "?after="), websocket.StatusNormalClosure)
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
	path := c.readPath()
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

func TestWebSocketSubprotocols(t *testing.T) {
	s := serve(t, "", "handle_path /none/* {\nmegaphone\n}\nmegaphone {\nwebsocket_protocols megaphone chat.v2\n}")
	c := s.create()
	for _, test := range []struct {
		site    string
		offered []string // in a line of the header each
		want    string   // the subprotocol, or the message of the refusal
	}{
		{"", nil, ""},
		{"", []string{"megaphone, bearer.secret"}, "megaphone"},
		{"", []string{"bearer.secret", "chat.v2,megaphone"}, "chat.v2"},
		{"", []string{" , "}, ""},
		{"", []string{"bearer.secret"}, "offer megaphone or chat.v2"},
		{"", []string{"Megaphone"}, "offer megaphone or chat.v2"},
		{"/none", nil, ""},
		{"/none", []string{"bearer.secret"}, "name yours in its setting websocket_protocols"},
	} {
		header := http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
			"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Sec-Websocket-Protocol": test.offered,
		}
		response := s.open(http.MethodGet, test.site+c.readPath()+"?after=", header, nil)
		selected, isSelected := response.Header["Sec-Websocket-Protocol"]
		if strings.Contains(test.want, " ") {
			text, _ := io.ReadAll(response.Body)
			refusal := reply{Response: response, body: string(text)}
			refusal.wantError(t, 400, "BAD_REQUEST")
			if !strings.Contains(refusal.body, test.want) || strings.Contains(refusal.body, "secret") {
				t.Errorf("%q is refused with %s", test.offered, refusal.body)
			}
		} else if response.StatusCode != http.StatusSwitchingProtocols || isSelected != (test.want != "") || isSelected && selected[0] != test.want {
			t.Errorf("%q on the site %q: %s, selected %q, want %q", test.offered, test.site, response.Status, selected, test.want)
		}
		response.Body.Close()
	}
}

// TestTheCloseCodeOfAClient closes WebSockets as a client does that reads only small messages.
func TestTheCloseCodeOfAClient(t *testing.T) {
	file := newAccessLog(t)
	s := serveAdmin(t, "", "megaphone")
	shown := func(c channel) int {
		var found struct{ Channels []struct{ CloseCode int } }
		if s.call(http.MethodPost, "lookup", `{"channels":["`+c.ConsumerAddress+`"]}`, &found); len(found.Channels) != 1 {
			t.Fatal("the channel is not found")
		}
		return found.Channels[0].CloseCode
	}
	refuse := func(c channel) {
		conn := s.dial(c, "?after=")
		conn.SetReadLimit(100)
		if _, _, err := conn.Read(t.Context()); err == nil {
			t.Fatal("the client reads the message")
		}
	}
	c := s.create()
	s.write(c, `"`+strings.Repeat("x", 100)+`"`)
	for range 2 { // the message comes again
		refuse(c)
		s.eventually(func() bool { return shown(c) == int(websocket.StatusMessageTooBig) })
	}
	if err := s.dial(c, "?after=").Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatal(err)
	}
	s.eventually(func() bool { return shown(c) == 0 })

	s.reload("", file.setting()+"}\nlog_append code {http.megaphone.close_code}\nmegaphone") // now reads keep their handlers
	refuse(c)
	line, object := file.entry()
	if object["close_code"] != 1009.0 || !strings.Contains(line, `"code":1009`) || shown(c) != int(websocket.StatusMessageTooBig) {
		t.Errorf("logged %s, shown %d", line, shown(c))
	}
	// A code that only repeats the server's is not the client's.
	conn := s.dial(c, "?after=")
	if _, _, err := conn.Read(t.Context()); err != nil { // the message
		t.Fatal(err)
	}
	s.sendText(conn, "{}") // only now: the server refuses it at once, perhaps before it sends the message
	s.wantClose(conn, 4400)
	if line, object := file.entry(); object["close_code"] != nil || !strings.Contains(line, `"code":""`) {
		t.Errorf("logged %s", line)
	}
}

// TestAWebSocketOutlivesLaterDeadlines checks a site with Caddy's handler timeouts. When that handler returns, it sets the
// server's deadlines again, even on a connection that was hijacked.
func TestAWebSocketOutlivesLaterDeadlines(t *testing.T) {
	s := serve(t, "servers {\ntimeouts {\nwrite_idle 200ms\nread_body_idle 200ms\n}\n}\nmegaphone {\nheartbeat 300ms\n}", "route {\ntimeouts {\nwrite_timeout 5s\nread_timeout 5s\n}\nmegaphone create write read manage\n}")
	c := s.create()
	pings := make(chan struct{}, 10)
	conn, _, err := websocket.Dial(s.Context(), "ws://localhost"+c.readPath()+"?after=", &websocket.DialOptions{
		HTTPClient: s.client,
		OnPingReceived: func(context.Context, []byte) bool {
			select {
			case pings <- struct{}{}:
			default: // nobody waits for a ping any more
			}
			return true
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	written := make(chan error, 1)
	go func() {
		for range 3 {
			<-pings
		}
		written <- s.writeOnce(c, 1)
	}()
	eid := s.wantMessages(conn, "1")[0]
	if err := <-written; err != nil {
		t.Error(err)
	}
	s.sendText(conn, fmt.Sprintf(`{"ack":%q}`, eid))
	s.awaitNothingInFlight(c)
}
