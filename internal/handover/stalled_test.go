package handover

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// TestAStalledHeaderGetsWhatNetHTTPGives has clients that send a part of a request's header and then nothing. The reply,
// and how long it takes, must be the same on a connection that was given back and on one that net/http has served all the
// time. net/http replies with status 400 in the middle of a line, and closes the connection without a reply after a whole
// line.
func TestAStalledHeaderGetsWhatNetHTTPGives(t *testing.T) {
	replies := 0
	for _, begin := range []string{
		"P", "POS", "POST", "POST /write/abc", "POST / HTTP/1.1\r", "POST / HTTP/1.1\r\n", "POST / HTTP/1.1\r\nHost: loc",
		"POST / HTTP/1.1\r\nHost: localhost\r\n", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Le", "garbage \x00", "\r\n", "\r\nPOST /",
	} {
		want, wantTook := stall(t, begin, false)
		got, gotTook := stall(t, begin, true)
		if got != want || gotTook != wantTook {
			t.Errorf("%q got %q after %v, but %q after %v from net/http", begin, got, gotTook, want, wantTook)
		}
		if want != "" {
			replies++
		}
	}
	if replies == 0 {
		t.Error("net/http replied to none")
	}
}

// stall sends the beginning of a second request on a connection. It returns the reply, and when the connection was closed.
// The connection was given back before it if givenBack is true.
func stall(t *testing.T, begin string, givenBack bool) (reply string, took time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		server := &http.Server{
			IdleTimeout: time.Minute, ReadHeaderTimeout: 10 * time.Second,
			Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
		}
		listener := new(address).listen()
		go func() { _ = server.Serve(listener) }()
		defer server.Close()
		theirs, ours := net.Pipe()
		defer theirs.Close()
		from := bufio.NewReader(theirs)
		if givenBack {
			go givenBackTo(server).give(prefixed(ours, nil))
		} else {
			listener.conns <- ours
			if _, err := io.WriteString(theirs, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if _, err := http.ReadResponse(from, nil); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		began := time.Now()
		if _, err := io.WriteString(theirs, begin); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(from)
		if err != nil {
			t.Error(err)
		}
		reply, took = string(text), time.Since(began)
	})
	return reply, took
}
