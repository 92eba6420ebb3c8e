package megaphone_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"go.uber.org/goleak"
)

// A server is Caddy in this process, whose sites listen on a Unix socket. Only one runs at a time.
type server struct {
	*testing.T

	socket string
	client *http.Client
	ctx    context.Context
}

// Context bounds what the test waits for.
func (s *server) Context() context.Context { return s.ctx }

// serve runs Caddy with a site, and the settings of the global option, until the test ends.
func serve(t *testing.T, settings, site string) *server {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	s := &server{T: t, socket: filepath.Join(t.TempDir(), "caddy.sock"), ctx: ctx}
	s.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.socket)
		},
	}}
	t.Cleanup(func() {
		cancel()
		s.client.CloseIdleConnections()
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
		// The servers of replaced configurations look twice a second whether they are idle.
		for deadline := time.Now().Add(10 * time.Second); ; {
			err := goleak.Find(leaks, // and what waits for all sockets, and what Caddy leaves running for the certificates that it may have
				goleak.IgnoreAnyFunction("github.com/caddy-megaphone/megaphone/internal/readable.(*poller).run"),
				goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*Cache).maintainAssets"),
				goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"))
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Error(err)
				break
			}
		}
	})
	if err := s.load(settings, site); err != nil {
		t.Fatal(err)
	}
	return s
}

// load replaces the configuration.
func (s *server) load(settings, site string) error {
	s.Helper()
	// The server of the replaced configuration closes idle connections, at a time of its own: the next request
	// must not be the one that finds out.
	defer s.client.CloseIdleConnections()
	return caddy.Load(adapt(s.T, s.caddyfile(settings, site)), true)
}

func (s *server) caddyfile(settings, site string) string {
	return fmt.Sprintf(`{
		admin off
		persist_config off
		storage file_system %s
		log {
			output discard
		}
		%s
	}
	http:// {
		bind unix/%s
		%s
	}`, filepath.Dir(s.socket), settings, s.socket, site)
}

func adapt(t *testing.T, caddyfile string) []byte {
	t.Helper()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("%v in\n%s", err, caddyfile)
	}
	return config
}

// A reply is what came back, read to its end.
type reply struct {
	*http.Response

	body string
	err  error // of reading the body
}

func (s *server) do(method, path string, header http.Header, body io.Reader) reply {
	s.Helper()
	response := s.open(method, path, header, body)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return reply{response, string(text), err}
}

// open sends a request and returns as soon as the header of its reply is there.
func (s *server) open(method, path string, header http.Header, body io.Reader) *http.Response {
	s.Helper()
	if body == nil {
		body = strings.NewReader("")
	}
	r, err := http.NewRequestWithContext(s.Context(), method, "http://localhost"+path, body)
	if err != nil {
		s.Fatal(err)
	}
	maps.Copy(r.Header, header)
	r.Host = header.Get("Host") // the URL's if empty
	response, err := s.client.Do(r)
	for (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) && r.GetBody != nil {
		// net/http drops what it reads on a connection of a server that was just told to shut down, as Caddy does with
		// that of a replaced configuration. No handler has seen the request, so it is repeated.
		r.Body, _ = r.GetBody() // never fails for the readers that tests use
		response, err = s.client.Do(r)
	}
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { response.Body.Close() })
	return response
}

var jsonHeader = http.Header{"Content-Type": {"application/json"}}

func (s *server) post(path, body string) reply {
	s.Helper()
	return s.do(http.MethodPost, path, jsonHeader, strings.NewReader(body))
}

func (s *server) get(path string) reply {
	s.Helper()
	return s.do(http.MethodGet, path, nil, nil)
}

// A channel has the addresses of a channel.
type channel struct {
	ProducerAddress, ConsumerAddress string
}

func (s *server) create() channel {
	s.Helper()
	var c channel
	r := s.do(http.MethodPost, "/create", nil, nil)
	if err := json.Unmarshal([]byte(r.body), &c); err != nil || r.StatusCode != http.StatusOK {
		s.Fatalf("create: %d %s", r.StatusCode, r.body)
	}
	return c
}

// write writes a message, which must be accepted.
func (s *server) write(c channel, body string) {
	s.Helper()
	if r := s.post("/write/"+c.ProducerAddress+"/stream", body); r.StatusCode != http.StatusCreated {
		s.Fatalf("write: %d %s", r.StatusCode, r.body)
	}
}

// A message is a line of a read.
type message struct {
	SID, EID, TS string
	Body         json.RawMessage
}

// A read is an open read.
type read struct {
	*testing.T

	response *http.Response
	lines    *bufio.Reader
}

func (s *server) read(path string) *read {
	s.Helper()
	response := s.open(http.MethodGet, path, nil, nil)
	if response.StatusCode != http.StatusOK {
		s.Fatalf("read: %s", response.Status)
	}
	return &read{s.T, response, bufio.NewReader(response.Body)}
}

// next waits for a message.
func (r *read) next() message {
	r.Helper()
	line, err := r.lines.ReadBytes('\n')
	if err != nil {
		r.Fatalf("%q: %v", line, err)
	}
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		r.Fatalf("%q: %v", line, err)
	}
	return m
}

// wants waits for messages with these bodies.
func (r *read) wants(bodies ...string) {
	r.Helper()
	for _, body := range bodies {
		if m := r.next(); string(m.Body) != body {
			r.Fatalf("got %s, want %s", m.Body, body)
		}
	}
}

// ends waits for the end, which must be a clean one after these bodies.
func (r *read) ends(bodies ...string) {
	r.Helper()
	r.wants(bodies...)
	if rest, err := io.ReadAll(r.lines); err != nil || len(rest) > 0 {
		r.Fatalf("%q, %v instead of a clean end", rest, err)
	}
}

// close breaks the read off.
func (r *read) close() { r.response.Body.Close() }

// wantError checks a reply that refuses.
func (r reply) wantError(t *testing.T, status int, code string) {
	t.Helper()
	var e struct{ Code, Message string }
	if err := json.Unmarshal([]byte(r.body), &e); err != nil || e.Code != code || e.Message == "" ||
		r.StatusCode != status || r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("reply %d %s %q, want %d %s", r.StatusCode, r.Header.Get("Content-Type"), r.body, status, code)
	}
}

// eventuallyFree waits until the server has noticed that a reader is gone.
func (s *server) eventuallyFree(c channel) {
	s.Helper()
	s.eventually(func() bool { return s.get("/read/"+c.ConsumerAddress+"?poll=0").StatusCode != http.StatusConflict })
}

// eventually waits until a condition holds.
func (s *server) eventually(condition func() bool) {
	s.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatal("waited in vain")
		}
	}
}
