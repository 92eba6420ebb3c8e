package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// On SIGTERM, with the grace period of a server that has set none, which is for ever: every open read ends cleanly,
// every held write gets its answer, and the process is gone within a second.
func TestShutdownAnswersEverybodyAtOnce(t *testing.T) {
	const reads, writes = 100, 20
	s := testserver.New(t)
	s.Start("metrics\nmegaphone {\nbuffer 1\nhold 1m\nread_duration 1m\n}", "http:// {\nbind unix/"+s.Socket("site")+"\nmegaphone\n}")
	c := &client{tb: t, http: testserver.UnixClient(t, s.Socket("site")), base: "http://localhost"}

	conns := make([]net.Conn, reads)
	for i := range conns {
		channel := c.create()
		c.write(channel, "0")
		conns[i] = readRaw(t, s.Socket("site"), channel)
	}
	full := c.create()
	c.write(full, "0")
	type answer struct {
		status int
		text   string
		err    error
	}
	answers := make(chan answer, writes)
	for range writes {
		go func() {
			status, text, err := c.post("/write/"+full.ProducerAddress+"/s", "1")
			answers <- answer{status, text, err}
		}()
	}
	awaitRequests(s, reads+writes)

	start := time.Now()
	s.Signal(syscall.SIGTERM)
	for range writes {
		a := <-answers
		var e struct{ Code string }
		if a.err != nil || a.status != http.StatusServiceUnavailable || json.Unmarshal([]byte(a.text), &e) != nil || e.Code != "TIMEOUT" {
			t.Errorf("a held write: %d %s %v", a.status, a.text, a.err)
		}
	}
	for _, conn := range conns {
		text, err := io.ReadAll(conn)
		// What is left is the end of the message's chunk, perhaps, and the chunk that terminates the response.
		if end := strings.TrimPrefix(string(text), "\r\n"); err != nil || end != "0\r\n\r\n" {
			t.Errorf("a read ends with %q, %v", text, err)
		}
	}
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Fatal("the process does not end")
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("the process was gone after %v", took)
	}
}

// readRaw opens a read and returns its connection as soon as the first message has come.
func readRaw(t *testing.T, socket string, c channel) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET /read/%s HTTP/1.1\r\nHost: localhost\r\n\r\n", c.ConsumerAddress); err != nil {
		t.Fatal(err)
	}
	var text []byte
	for buffer := make([]byte, 4096); !bytes.Contains(text, []byte(`"body":0}`)); {
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatalf("%q, %v", text, err)
		}
		text = append(text, buffer[:n]...)
	}
	return conn
}

// awaitRequests waits until so many requests are open. The server must have the option metrics.
func awaitRequests(s *testserver.Server, n int) {
	open := regexp.MustCompile(`(?m)^caddy_http_requests_in_flight\{.*\} (\d+)$`)
	s.Await(fmt.Sprintf("%d requests are open", n), func() bool {
		response, err := s.Admin().Get("http://localhost/metrics")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		match := open.FindSubmatch(text)
		return err == nil && match != nil && string(match[1]) == strconv.Itoa(n)
	})
}
