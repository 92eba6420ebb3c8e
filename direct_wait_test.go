package megaphone_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// A heldWrite is a write to a full channel.
type heldWrite struct {
	*rawClient

	to channel
}

// heldDirectly sends a direct write to a channel that is full, because it has room for enough messages. behind is pipelined
// behind the write.
func (s *server) heldDirectly(behind string) heldWrite {
	s.Helper()
	c := s.create()
	client := s.direct(c)
	client.send(writeRequest(c.ProducerAddress, `"held"`) + behind)
	return heldWrite{client, c}
}

// heldByNetHTTP does the same on a connection that is not served directly.
func (s *server) heldByNetHTTP(behind string) heldWrite {
	s.Helper()
	c := s.create()
	for _, body := range numbered(0, enough) {
		s.write(c, body)
	}
	client := s.rawClient()
	client.send(writeRequest(c.ProducerAddress, `"held"`) + behind)
	return heldWrite{client, c}
}

// rest returns all that the server sends until it closes the connection, without what differs between two replies. If the
// server shuts down, it is chance where net/http says that the connection ends.
func (w heldWrite) rest() string {
	w.Helper()
	text, err := io.ReadAll(w.replies)
	if err != nil {
		w.Fatal(err)
	}
	const ends = "\r\nConnection: close"
	if before, after, ok := strings.Cut(withoutChanges(string(text)), ends); ok {
		return before + after + ends
	}
	return withoutChanges(string(text))
}

// closing is a request that ends its connection.
const closing = "GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

// TestHeldDirectWritesEndAsWithNetHTTP ends the wait of a write in every way there is. Both kinds of writes must get the same
// bytes.
func TestHeldDirectWritesEndAsWithNetHTTP(t *testing.T) {
	global := func(more string) string {
		return fmt.Sprintf("megaphone {\nbuffer %d\nin_flight 100\n%s\n}", enough, more)
	}
	const site = "megaphone create write read manage"
	for name, test := range map[string]struct {
		settings, behind string
		end              func(w heldWrite)
		soon             bool // it ends by itself
		want             string
	}{
		"room":                 {behind: closing, end: func(w heldWrite) { w.read(w.to).wants(numbered(0, enough)...) }, want: "201 Created"},
		"the hold time":        {settings: "hold 20ms", behind: closing, end: func(heldWrite) {}, soon: true, want: `"code":"TIMEOUT"`},
		"the channel's delete": {behind: closing, end: func(w heldWrite) { w.deleteChannel(w.to) }, want: `"code":"NOT_FOUND"`},
		"a reload": {end: func(w heldWrite) {
			w.reload(global("heartbeat 14s"), site)
			w.read(w.to).wants(numbered(0, enough)...)
		}, want: "201 Created"},
		"another broker":     {end: func(w heldWrite) { w.reload("megaphone {\nbroker guest\n}", site) }, want: "the server is shutting down"},
		"the client's end":   {end: func(w heldWrite) { _ = w.Conn.(*net.UnixConn).CloseWrite() }, want: "499 status code 499"},
		"the guest's answer": {settings: "broker guest\nhold 20ms", behind: closing, end: func(heldWrite) {}, soon: true, want: `"code":"TIMEOUT"`},
	} {
		t.Run(name, func(t *testing.T) {
			play := func(held func(s *server) heldWrite) string {
				s := serve(t, global(test.settings), site)
				w := held(s)
				if !test.soon {
					s.awaitHeldWrite()
				}
				test.end(w)
				return w.rest()
			}
			want := play(func(s *server) heldWrite { return s.heldByNetHTTP(test.behind) })
			got := play(func(s *server) heldWrite { return s.heldDirectly(test.behind) })
			if got != want || !strings.Contains(want, test.want) {
				t.Errorf("a direct write gets\n%q\nand with net/http it gets\n%q, want %s in it", got, want, test.want)
			}
		})
	}
}

// TestAHeldDirectWriteIsWithdrawnWhenItsClientGoes: nobody can learn any more that it was written.
func TestAHeldDirectWriteIsWithdrawnWhenItsClientGoes(t *testing.T) {
	s := serve(t, fmt.Sprintf("megaphone {\nbuffer %d\n}", enough), "megaphone")
	w := s.heldDirectly("")
	s.awaitHeldWrite()
	w.Close()
	s.eventually(func() bool { return !s.isDirect() })
	read := s.read(w.to)
	read.wants(numbered(0, enough)...)
	s.write(w.to, `"after"`)
	read.wants(`"after"`)
}

// TestDirectWritesWaitForAGuestBroker: its PublishNow always returns false.
func TestDirectWritesWaitForAGuestBroker(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 1000\nbroker guest\n}", "megaphone")
	c := s.create()
	client := s.direct(c)
	client.writeAll(c, numbered(enough, 20)...)
	var pipelined strings.Builder
	for _, body := range numbered(20, 60) {
		pipelined.WriteString(writeRequest(c.ProducerAddress, body))
	}
	client.send(pipelined.String())
	for range 40 {
		client.wants(http.StatusCreated)
	}
	client.send(strings.Replace(writeRequest(c.ProducerAddress, "1"), "/stream", "/uncertain", 1))
	client.wants(http.StatusServiceUnavailable)
	client.send(writeRequest("main.AAAAAAAAAAAAAAAAAAAAAA", "1"))
	client.wants(http.StatusNotFound)
	client.writeAll(c, "60")
	if !s.isDirect() {
		t.Error("the connection has gone back to net/http")
	}
	s.read(c).wants(numbered(0, 61)...)
}
