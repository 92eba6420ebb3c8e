package megaphone_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// handlerWaits reports whether a read's handler has not returned.
func handlerWaits() bool {
	stacks := make([]byte, 1<<20)
	return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*Handler).serveRead(")
}

// waitingReads returns how many goroutines there are that wait for a reader's messages, or for its client.
func waitingReads() int {
	stacks := make([]byte, 1<<20)
	text := string(stacks[:runtime.Stack(stacks, true)])
	return strings.Count(text, "(*Delivery).run(") + strings.Count(text, "(*clientWatch).") + strings.Count(text, "transport.(*listener).")
}

func TestADetachedReadThatIsIdleHasNoGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("a goroutine waits for the client on this system")
	}
	isIdle := func() bool { return !handlerWaits() && waitingReads() == 0 }
	s := serve(t, "servers {\nprotocols h1\n}", "megaphone") // of which Caddy wraps the connections
	conn := s.dial(s.create(), "")
	s.eventually(isIdle)
	conn.CloseNow()

	s = serve(t, "megaphone {\nheartbeat 50ms\n}", "megaphone")
	lines, events, socket := s.create(), s.create(), s.create()
	heard := map[channel]*bufio.Reader{}
	for c, accept := range map[channel]string{lines: "*/*", events: "text/event-stream"} {
		response := s.open(http.MethodGet, "/read/"+c.ConsumerAddress, http.Header{"Accept": {accept}}, nil)
		defer response.Body.Close()
		heard[c] = bufio.NewReader(response.Body)
	}
	conn = s.dial(socket, "?after=")
	s.eventually(isIdle)
	if got := s.metrics()["caddy_megaphone_detached_readers{}"]; got != 3 {
		t.Errorf("%v readers do without their handler", got)
	}
	for c, text := range heard {
		s.write(c, `"one"`)
		for line := ""; !strings.Contains(line, `"one"`); {
			var err error
			if line, err = text.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.write(socket, "1")
	s.say(conn, fmt.Sprintf(`{"ack":%q}`, s.hears(conn, "1")[0]))
	s.eventually(isIdle)
}

func TestAReadIsDetachedWhereNobodyIsWorseOff(t *testing.T) {
	for _, test := range []struct {
		name, settings, site string
		waits                bool
	}{
		{name: "alone", site: "megaphone"},
		{name: "with an access log", site: "log {\noutput discard\n}\nmegaphone", waits: true},
		{name: "with metrics", settings: "metrics", site: "megaphone", waits: true},
		{name: "with a limit to each response", settings: "servers {\ntimeouts {\nwrite 1m\n}\n}", site: "megaphone", waits: true},
		{name: "with nothing but that", settings: "servers {\ntimeouts {\nwrite 1m\nwrite_idle -1s\n}\n}", site: "megaphone", waits: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, "megaphone {\nread_duration 1s\n}\n"+test.settings, test.site)
			for _, accept := range []string{"*/*", "text/event-stream"} {
				response := s.open(http.MethodGet, "/read/"+s.create().ConsumerAddress, http.Header{"Accept": {accept}}, nil)
				s.eventually(func() bool { return handlerWaits() == test.waits })
				response.Body.Close()
			}
			c := s.create()
			conn := s.dial(c, "")
			s.eventually(func() bool { return handlerWaits() == test.waits })
			s.write(c, "1")
			s.hears(conn, "1")

			c = s.create()
			r := s.read("/read/" + c.ConsumerAddress)
			large := `"` + strings.Repeat("x", 200_000) + `"`
			s.write(c, large)
			s.write(c, "2")
			r.ends(large, "2")
		})
	}
}

// A rawClient is one connection, on which a client speaks HTTP/1.1 by hand.
type rawClient struct {
	*server
	net.Conn

	replies *bufio.Reader
}

func (s *server) rawClient() *rawClient {
	s.Helper()
	conn, err := new(net.Dialer).DialContext(s.ctx, "unix", s.socket)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		s.Fatal(err)
	}
	return &rawClient{s, conn, bufio.NewReader(conn)}
}

func (c *rawClient) send(text string) {
	c.Helper()
	if _, err := io.WriteString(c.Conn, text); err != nil {
		c.Fatal(err)
	}
}

// wants waits for a reply with a status, and reports whether it is the connection's last.
func (c *rawClient) wants(status int) (last bool) {
	c.Helper()
	response, err := http.ReadResponse(c.replies, nil)
	if err != nil {
		c.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode != status {
		c.Fatalf("%s %q, %v", response.Status, body, err)
	}
	return response.Close
}

// wantsEnd waits until the server closes the connection.
func (c *rawClient) wantsEnd() {
	c.Helper()
	if rest, err := io.ReadAll(c.replies); err != nil && !errors.Is(err, net.ErrClosed) || len(rest) > 0 {
		c.Fatalf("%q, %v instead of the connection's end", rest, err)
	}
}

const (
	getRead    = "GET /read/%s HTTP/1.1\r\nHost: localhost\r\n\r\n"
	postCreate = "POST /create HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
)

func TestAConnectionServesOnAfterADetachedRead(t *testing.T) {
	s := serve(t, "megaphone {\nread_duration 50ms\n}", "megaphone")
	get := strings.ReplaceAll(getRead, "%s", s.create().ConsumerAddress)
	client := s.rawClient()
	for range 3 {
		client.send(get)
		client.wants(http.StatusOK)
		client.send(postCreate)
		client.wants(http.StatusOK)
		client.send(get)
		client.wants(http.StatusOK)
	}

	// What comes before the read has ended waits for its turn.
	client.send(get + get + postCreate + get)
	for range 4 {
		client.wants(http.StatusOK)
	}
	client.send(get)
	s.eventually(func() bool { return !handlerWaits() })
	client.send(postCreate[:1])
	client.wants(http.StatusOK)
	client.send(postCreate[1:])
	client.wants(http.StatusOK)

	client.send(strings.Replace(get, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
	if !client.wants(http.StatusOK) {
		t.Error("the client is not told that the connection ends")
	}
	client.wantsEnd()
}

func TestAConnectionThatServedADetachedReadEndsWithItsServer(t *testing.T) {
	s := serve(t, "megaphone {\nread_duration 50ms\n}", "megaphone")
	get := strings.ReplaceAll(getRead, "%s", s.create().ConsumerAddress)
	idle, inTheMiddle := s.rawClient(), s.rawClient()
	idle.send(get)
	idle.wants(http.StatusOK)
	inTheMiddle.send(get)
	inTheMiddle.wants(http.StatusOK)
	inTheMiddle.send(get[:10])
	inTheMiddle.Close()

	// Another configuration has another server.
	if err := s.load("megaphone {\nread_duration 60ms\n}", "megaphone"); err != nil {
		t.Fatal(err)
	}
	idle.wantsEnd()
	client := s.rawClient()
	client.send(get)
	client.wants(http.StatusOK)
	client.send(postCreate)
	client.wants(http.StatusOK)

	// A connection that waits for a request delays nothing: new ones delay net/http's shutdown by 5 seconds.
	client = s.rawClient()
	client.send(get)
	client.wants(http.StatusOK)
	start := time.Now()
	if err := s.load("", "respond 204"); err != nil {
		t.Fatal(err)
	}
	client.wantsEnd()
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("the connection was closed after %v", took)
	}
}

func TestADetachedReadNoticesThatItsClientIsGone(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	client := s.rawClient()
	client.send(strings.ReplaceAll(getRead, "%s", c.ConsumerAddress))
	if _, err := client.replies.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	s.eventually(func() bool { return !handlerWaits() && (runtime.GOOS != "linux" || waitingReads() == 0) })
	client.Close()
	s.eventuallyFree(c)
}

// When Caddy's handler timeouts returns, it sets the deadline of the server again, though the connection was taken over.
func TestADetachedReadOutlivesADeadlineThatWasSetAfterIt(t *testing.T) {
	s := serve(t, "servers {\ntimeouts {\nwrite_idle 200ms\n}\n}\nmegaphone {\nheartbeat 300ms\n}", "route {\ntimeouts {\nwrite_timeout 5s\n}\nmegaphone\n}")
	c := s.create()
	response := s.open(http.MethodGet, "/read/"+c.ConsumerAddress, http.Header{"Accept": {"text/event-stream"}}, nil)
	s.eventually(func() bool { return !handlerWaits() })
	lines := bufio.NewReader(response.Body)
	for heartbeats := 0; heartbeats < 2; {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("after %d heartbeats: %v", heartbeats, err)
		}
		if line == ":\n" {
			heartbeats++
		}
	}
}
