package megaphone_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"go.uber.org/goleak"
)

// A server is Caddy in this process. Its sites listen on a Unix socket. Only one server runs at a time.
type server struct {
	*testing.T

	socket string
	client *http.Client
	ctx    context.Context
}

// Context limits how long the test waits for anything.
func (s *server) Context() context.Context { return s.ctx }

// serve runs Caddy with a site until the test ends. settings are global options.
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
		awaitNoLeaks(t, leaks)
	})
	s.reload(settings, site)
	return s
}

// awaitNoLeaks waits until the goroutines of the test have ended. That takes a moment: a server of a replaced
// configuration checks only twice a second whether its connections are idle.
func awaitNoLeaks(t *testing.T, atTheStart goleak.Option) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := goleak.Find(atTheStart,
			// The one goroutine that waits for all sockets.
			goleak.IgnoreAnyFunction("github.com/caddy-megaphone/megaphone/internal/readable.(*poller).run"),
			// What Caddy leaves running for certificates.
			goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*Cache).maintainAssets"),
			goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"))
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Error(err)
			return
		}
	}
}

// in returns the same server for a subtest.
func (s *server) in(t *testing.T) *server {
	same := *s
	same.T = t
	return &same
}

// load replaces the configuration. For a moment, the server of the replaced one may still accept connections.
func (s *server) load(settings, site string) error {
	s.Helper()
	// The server of the replaced configuration closes idle connections whenever it likes. The next request must not be
	// sent on one of them.
	defer s.client.CloseIdleConnections()
	return caddy.Load(adapt(s.T, s.caddyfile(settings, site)), true)
}

// awaitServers waits until only the servers of the loaded configuration accept connections. Caddy does not wait for that.
// n is how many addresses they listen at.
func (s *server) awaitServers(n int) {
	s.Helper()
	s.eventually(func() bool {
		return strings.Count(goroutines(), "created by github.com/caddyserver/caddy/v2/modules/caddyhttp.(*App).Start ") == n
	})
}

// reload replaces the configuration, which must succeed. Then the new configuration serves all new connections.
func (s *server) reload(settings, site string) {
	s.Helper()
	if err := s.load(settings, site); err != nil {
		s.Fatal(err)
	}
	s.awaitServers(1)
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

// adapt returns the JSON configuration of a Caddyfile.
func adapt(t *testing.T, caddyfile string) []byte {
	t.Helper()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("%v in\n%s", err, caddyfile)
	}
	return config
}

// docBlock returns the Caddyfile block of a page in docs that contains a text.
func docBlock(t *testing.T, page, text string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("docs", page))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?ms)^```caddyfile\n(.*?)^```$").FindAllSubmatch(content, -1) {
		if strings.Contains(string(block[1]), text) {
			return string(block[1])
		}
	}
	t.Fatalf("docs/%s has no block with %s", page, text)
	return ""
}

// A reply is a response whose body was read to its end.
type reply struct {
	*http.Response

	body string
	err  error // of reading the body
}

// do sends a request and reads the whole response.
func (s *server) do(method, path string, header http.Header, body io.Reader) reply {
	s.Helper()
	response := s.open(method, path, header, body)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return reply{response, string(text), err}
}

// open sends a request and returns as soon as the header of the response has arrived.
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
	for isDropped(err) && r.GetBody != nil {
		r.Body, _ = r.GetBody() // never fails for the readers that tests use
		response, err = s.client.Do(r)
	}
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { response.Body.Close() })
	return response
}

// isDropped reports whether err says that the server of a replaced configuration has dropped a request. When Caddy shuts
// such a server down, net/http closes idle connections, and drops requests that it has just read. No handler has seen the
// request, so it can be sent again.
func isDropped(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) ||
		err != nil && strings.Contains(err.Error(), "http: server closed idle connection")
}

var (
	jsonHeader  = http.Header{"Content-Type": {"application/json"}}
	linesHeader = http.Header{"Content-Type": {"application/x-ndjson"}}
)

// post sends a POST request with a JSON body.
func (s *server) post(path, body string) reply {
	s.Helper()
	return s.do(http.MethodPost, path, jsonHeader, strings.NewReader(body))
}

func (s *server) get(path string) reply {
	s.Helper()
	return s.do(http.MethodGet, path, nil, nil)
}

// wantError checks that a reply is an error with this status and code.
func (r reply) wantError(t *testing.T, status int, code string) {
	t.Helper()
	var e struct{ Code, Message string }
	if err := json.Unmarshal([]byte(r.body), &e); err != nil || e.Code != code || e.Message == "" ||
		r.StatusCode != status || r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("reply %d %s %q, want %d %s", r.StatusCode, r.Header.Get("Content-Type"), r.body, status, code)
	}
}

// wantCreated checks that a write was accepted.
func (r reply) wantCreated(t *testing.T) {
	t.Helper()
	if r.StatusCode != http.StatusCreated {
		t.Errorf("write: %d %s, want %d", r.StatusCode, r.body, http.StatusCreated)
	}
}

// eventually waits until a condition holds. It checks often at first. What takes longer, it checks less often.
func (s *server) eventually(condition func() bool) {
	s.Helper()
	const limit = 20 * time.Second
	for start := time.Now(); !condition(); time.Sleep(max(time.Millisecond, time.Since(start)/30)) {
		if time.Since(start) > limit {
			s.Fatalf("the condition does not hold after %v", limit)
		}
	}
}
