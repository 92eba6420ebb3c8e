package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// A bodySite is a site at a port without TLS and one with TLS.
type bodySite struct {
	*testserver.Server

	plain, secure string
	roots         *tls.Config
	channel       channel
}

// startBodySite starts a server with the directives on both of its sites.
func startBodySite(t *testing.T, options, directives string) *bodySite {
	t.Helper()
	plain, secure := testserver.FreePort(t), testserver.FreePort(t)
	s := &bodySite{
		Server: testserver.New(t),
		plain:  fmt.Sprintf("127.0.0.1:%d", plain), secure: fmt.Sprintf("127.0.0.1:%d", secure),
	}
	s.Start(options, fmt.Sprintf("http://:%d, https://localhost:%d {\nbind 127.0.0.1\n%s\n}\n", plain, secure, directives))
	awaitCertificate(t, s.Server, "localhost", secure)
	s.roots = &tls.Config{RootCAs: s.Roots(), ServerName: "localhost"}
	s.channel = (&client{tb: t, http: http.DefaultClient, base: "http://" + s.plain}).create()
	return s
}

// dial opens a connection for HTTP/1.1.
func (s *bodySite) dial(t *testing.T, secure bool) net.Conn {
	t.Helper()
	dial := func() (net.Conn, error) { return net.Dial("tcp", s.plain) }
	if secure {
		dial = func() (net.Conn, error) { return tls.Dial("tcp", s.secure, s.roots) }
	}
	conn, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// A bodyRequest is a request with a body, without the body.
type bodyRequest struct{ method, path, contentType string }

// requests returns a request for each endpoint that reads its body, and some that do not get so far.
func (s *bodySite) requests() map[string]bodyRequest {
	write := "/write/" + s.channel.ProducerAddress + "/s"
	return map[string]bodyRequest{
		"create":             {"POST", "/create", ""},
		"write":              {"POST", write, "application/json"},
		"write-batch":        {"POST", "/write-batch", "application/json"},
		"ingest":             {"POST", "/write", "application/x-ndjson"},
		"channelsExists":     {"POST", "/channelsExists", "application/json"},
		"read with a body":   {"GET", "/read/" + s.channel.ConsumerAddress, "application/json"},
		"write of text":      {"POST", write, "text/plain"},
		"wrong method":       {"PUT", "/write-batch", "application/json"},
		"write with bad key": {"POST", write, "application/json\r\nIdempotency-Key: a b"},
	}
}

// head returns the header of the request over HTTP/1.1. A length below 0 makes it chunked.
func (r bodyRequest) head(length int, fields ...string) string {
	framing := fmt.Sprintf("Content-Length: %d", length)
	if length < 0 {
		framing = "Transfer-Encoding: chunked"
	}
	fields = append([]string{
		r.method + " " + r.path + " HTTP/1.1", "Host: localhost", "Content-Type: " + r.contentType, framing,
	}, fields...)
	return strings.Join(fields, "\r\n") + "\r\n\r\n"
}

// reply reads a reply and checks its status and its code, which may be empty.
func reply(from io.Reader, status int, code string) error {
	response, err := http.ReadResponse(bufio.NewReader(from), nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return checkReply(response, status, code)
}

func checkReply(response *http.Response, status int, code string) error {
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	var e struct{ Code string }
	if response.StatusCode != status || json.Unmarshal(text, &e) != nil || e.Code != code {
		return fmt.Errorf("%s %q, want %d %s", response.Status, text, status, code)
	}
	return nil
}

// TestExitDoesNotWaitForBodies has clients that send the beginning of a body, to each endpoint and in each way that HTTP
// has. At the exit each of them gets a reply, and the process is gone within a second.
func TestExitDoesNotWaitForBodies(t *testing.T) {
	t.Parallel()
	s := startBodySite(t, "metrics", "megaphone")
	const begin = `{"chan`
	var replies []func() error
	open := func(name string, secure bool, head, body string, status int) {
		conn := s.dial(t, secure)
		if _, err := io.WriteString(conn, head+body); err != nil {
			t.Fatal(err)
		}
		replies = append(replies, func() error {
			if err := reply(conn, status, exitCodes[status]); err != nil {
				return fmt.Errorf("%s, with TLS %t: %w", name, secure, err)
			}
			return nil
		})
	}
	over2 := &http.Client{Transport: &http.Transport{TLSClientConfig: s.roots.Clone(), ForceAttemptHTTP2: true}}
	for range 5 {
		for name, r := range s.requests() {
			status := map[string]int{"write of text": 415, "wrong method": 405, "write with bad key": 400}[name]
			if status == 0 {
				status = http.StatusServiceUnavailable
			}
			for _, secure := range []bool{false, true} {
				open(name+" with a length", secure, r.head(1000), begin, status)
				if status == http.StatusServiceUnavailable { // the others are refused at once
					open(name+" in chunks", secure, r.head(-1), fmt.Sprintf("%x\r\n%s\r\n", len(begin), begin), status)
				}
			}
			if status == http.StatusServiceUnavailable && r.method == http.MethodPost {
				replies = append(replies, openHTTP2(t, over2, "https://localhost"+strings.TrimPrefix(s.secure, "127.0.0.1")+r.path, r, begin))
			}
		}
	}
	awaitMetric(s.Server, "caddy_http_requests_in_flight", len(replies))
	start := time.Now()
	gone := make(chan time.Duration, 1)
	go func() {
		<-s.Done()
		gone <- time.Since(start)
	}()
	s.Signal(syscall.SIGTERM)
	for _, reply := range replies {
		if err := reply(); err != nil {
			t.Error(err)
		}
	}
	select {
	case took := <-gone:
		if took > promptly {
			t.Errorf("the process ended after %v", took)
		}
		t.Logf("%d requests, %v", len(replies), took)
	case <-time.After(patience):
		t.Fatal("the process does not end")
	}
}

// exitCodes are the codes of refusals.
var exitCodes = map[int]string{
	503: "TIMEOUT", 415: "UNSUPPORTED_MEDIA_TYPE", 405: "METHOD_NOT_ALLOWED", 400: "BAD_REQUEST", 413: "PAYLOAD_TOO_LARGE",
}

// openHTTP2 sends a request over HTTP/2 of which the body begins and does not end. It returns a function that waits for
// the reply, which says that the server shuts down.
func openHTTP2(t *testing.T, over2 *http.Client, url string, r bodyRequest, begin string) func() error {
	t.Helper()
	body, to := io.Pipe()
	t.Cleanup(func() { to.Close() })
	request, err := http.NewRequestWithContext(t.Context(), r.method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", r.contentType)
	failed := make(chan error, 1)
	go func() {
		response, err := over2.Do(request)
		if err == nil {
			err = checkReply(response, http.StatusServiceUnavailable, "TIMEOUT")
			response.Body.Close()
		}
		failed <- err
	}()
	if _, err := io.WriteString(to, begin); err != nil {
		t.Fatal(err)
	}
	return func() error {
		if err := <-failed; err != nil {
			return fmt.Errorf("%s over HTTP/2: %w", r.path, err)
		}
		return nil
	}
}

// TestRefusalsReachClientsThatStillSend has clients that read the reply only after they have sent a body which is much
// too large.
func TestRefusalsReachClientsThatStillSend(t *testing.T) {
	t.Parallel()
	for name, directives := range map[string]string{
		"alone":              "megaphone",
		"with an access log": "log {\noutput discard\n}\nmegaphone",
		"compressed":         "encode {\nminimum_length 1\n}\nmegaphone",
		"with another limit": "request_body {\nmax_size 50KB\n}\nmegaphone",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startBodySite(t, "megaphone {\nmax_message_size 100KB\n}", directives)
			var clients sync.WaitGroup
			for endpoint, r := range s.requests() {
				for _, secure := range []bool{false, true} {
					for _, chunked := range []bool{false, true} {
						if name == "with another limit" && !chunked {
							continue // Caddy refuses these itself
						}
						clients.Go(func() {
							if err := s.sendAll(t, r, secure, chunked); err != nil {
								t.Errorf("%s, with TLS %t, in chunks %t: %v", endpoint, secure, chunked, err)
							}
						})
					}
				}
			}
			clients.Wait()
		})
	}
}

// sendAll sends a request with a large body, and then reads the reply.
func (s *bodySite) sendAll(t *testing.T, r bodyRequest, secure, chunked bool) error {
	body := bytes.Repeat([]byte{'1'}, 6<<20)
	status, head := http.StatusRequestEntityTooLarge, r.head(len(body), "Accept-Encoding: identity")
	switch {
	case r.path == "/create":
		status = http.StatusOK
	case r.method == http.MethodGet: // a read, which takes no body
		status = 0
	case r.method == http.MethodPut:
		status = http.StatusMethodNotAllowed
	case r.contentType == "text/plain":
		status = http.StatusUnsupportedMediaType
	case strings.Contains(r.contentType, "Key"):
		status = http.StatusBadRequest
	}
	if chunked {
		head = r.head(-1)
		body = slices.Concat(fmt.Appendf(nil, "%x\r\n", len(body)), body, []byte("\r\n0\r\n\r\n"))
	}
	conn := s.dial(t, secure)
	if _, err := conn.Write(append([]byte(head), body...)); err != nil {
		return err
	}
	if status == 0 {
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil && response.StatusCode != http.StatusOK && response.StatusCode != http.StatusConflict &&
			response.StatusCode != http.StatusRequestEntityTooLarge {
			err = errors.New(response.Status)
		}
		return err
	}
	return reply(conn, status, exitCodes[status])
}

// TestRefusalsReachClientsThatSendForEver has clients that read while they send, without an end.
func TestRefusalsReachClientsThatSendForEver(t *testing.T) {
	t.Parallel()
	s := startBodySite(t, "megaphone {\nmax_message_size 100KB\n}", "megaphone")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	piece := strings.Repeat("1", 1000)
	for name, r := range s.requests() {
		if name == "create" || name == "read with a body" {
			continue // these are not refused
		}
		conn := s.dial(t, false)
		go func() {
			_, err := io.WriteString(conn, r.head(-1))
			for err == nil && ctx.Err() == nil {
				_, err = fmt.Fprintf(conn, "%x\r\n%s\r\n", len(piece), piece)
			}
		}()
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || response.StatusCode < 400 {
			t.Errorf("%s: %v, %v", name, response, err)
		}
		conn.Close()
	}
}
