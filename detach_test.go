package megaphone_test

import (
	"bufio"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// handlerWaits reports whether the handler of a read has not returned.
func handlerWaits(t testing.TB) bool { return running(t, ".(*Handler).serveRead") > 0 }

// readWaits reports whether a goroutine waits for the messages of a reader, or for its client to go away.
func readWaits(t testing.TB) bool {
	return running(t, "/internal/delivery.(*Delivery).run") > 0 ||
		running(t, "/internal/transport.(*clientWatch).") > 0 || running(t, "/internal/transport.(*listener).") > 0
}

// TestADetachedReadThatIsIdleHasNoGoroutine checks a server whose connections Caddy wraps. TestRealTime has another one.
func TestADetachedReadThatIsIdleHasNoGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("on this system a goroutine waits for the client")
	}
	s := serve(t, "servers {\nprotocols h1\n}", "megaphone")
	s.dial(s.create(), "")
	s.eventually(func() bool { return !handlerWaits(t) && !readWaits(t) })
}

func TestReadsAreDetachedOnlyWhereNobodyNotices(t *testing.T) {
	for _, test := range []struct {
		name, settings, site string
		waits                bool // whether the handler waits for the read
	}{
		{name: "alone", site: "megaphone"},
		{name: "turned off", site: "megaphone {\ndetached_reads off\n}", waits: true},
		{name: "turned on", site: "megaphone {\ndetached_reads on\ndirect_writes off\n}"},
		{name: "with an access log", site: "log {\noutput discard\n}\nmegaphone", waits: true},
		{name: "with metrics", settings: "metrics", site: "megaphone", waits: true},
		{name: "with a limit on responses", settings: "servers {\ntimeouts {\nwrite 1m\n}\n}", site: "megaphone", waits: true},
		{name: "with a limit on responses only", settings: "servers {\ntimeouts {\nwrite 1m\nwrite_idle -1s\n}\n}", site: "megaphone", waits: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, test.settings, test.site)
			waitsAsWanted := func() bool { return handlerWaits(t) == test.waits }
			for _, accept := range []string{"*/*", "text/event-stream"} {
				response := s.open(http.MethodGet, s.create().readPath(), http.Header{"Accept": {accept}}, nil)
				s.eventually(waitsAsWanted)
				response.Body.Close()
			}
			c := s.create()
			conn := s.dial(c, "")
			s.eventually(waitsAsWanted)
			s.write(c, "1")
			s.wantMessages(conn, "1")

			c = s.create()
			r := s.read(c)
			large := `"` + strings.Repeat("x", 200_000) + `"`
			s.write(c, large)
			s.write(c, "2")
			r.wants(large, "2")
			s.readAfter(c, "").close() // takes over
			r.ends()
		})
	}
}

func TestAConnectionServesMoreRequestsAfterADetachedRead(t *testing.T) {
	s := serve(t, "megaphone {\nread_duration 50ms\n}", "megaphone")
	get := readRequest(s.create())
	client := s.rawClient()
	for range 3 {
		client.send(get)
		client.wants(http.StatusOK)
		client.send(createRequest)
		client.wants(http.StatusOK)
		client.send(get)
		client.wants(http.StatusOK)
	}

	// Requests that arrive before the read has ended wait for their turn.
	client.send(get + get + createRequest + get)
	for range 4 {
		client.wants(http.StatusOK)
	}
	client.send(get)
	s.eventually(func() bool { return !handlerWaits(t) })
	client.send(createRequest[:1])
	client.wants(http.StatusOK)
	client.send(createRequest[1:])
	client.wants(http.StatusOK)

	client.send(strings.Replace(get, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
	if !client.wants(http.StatusOK) {
		t.Error("the reply does not say that the connection ends")
	}
	client.wantsEnd()
}

func TestAConnectionThatServedADetachedReadEndsWithItsServer(t *testing.T) {
	s := serve(t, "megaphone {\nread_duration 50ms\n}", "megaphone")
	get := readRequest(s.create())
	idle, inTheMiddle := s.rawClient(), s.rawClient()
	idle.send(get)
	idle.wants(http.StatusOK)
	inTheMiddle.send(get)
	inTheMiddle.wants(http.StatusOK)
	inTheMiddle.send(get[:10])
	inTheMiddle.Close()

	// Another configuration has another server.
	s.reload("megaphone {\nread_duration 60ms\n}", "megaphone")
	idle.wantsEnd()
	client := s.rawClient()
	client.send(get)
	client.wants(http.StatusOK)
	client.send(createRequest)
	client.wants(http.StatusOK)

	// A connection that waits for a request does not delay the reload. A new connection would: net/http waits 5 seconds for
	// its first request.
	client = s.rawClient()
	client.send(get)
	client.wants(http.StatusOK)
	start := time.Now()
	s.reload("", "respond 204")
	client.wantsEnd()
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("the connection was closed after %v, want less than 4s", took)
	}
}

func TestADetachedReadNoticesThatItsClientIsGone(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	client := s.rawClient()
	client.send(readRequest(c))
	if _, err := client.replies.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	s.eventually(func() bool { return !handlerWaits(t) && (runtime.GOOS != "linux" || !readWaits(t)) })
	client.Close()
	s.awaitNoReader(c)
}

// TestADetachedReadOutlivesALaterDeadline checks a site with Caddy's handler timeouts. When that handler returns, it
// sets the server's deadline again, even on a connection that was hijacked.
func TestADetachedReadOutlivesALaterDeadline(t *testing.T) {
	s := serve(t, "servers {\ntimeouts {\nwrite_idle 200ms\n}\n}\nmegaphone {\nheartbeat 300ms\n}", "route {\ntimeouts {\nwrite_timeout 5s\n}\nmegaphone\n}")
	response := s.openSSE(s.create())
	s.eventually(func() bool { return !handlerWaits(t) })
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
