package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// A recipe is a page of docs/recipes. Its configurations and commands run unchanged, except for ports and paths.
type recipe struct {
	*testing.T

	text    string
	dir     string // HOME and the working directory of the sessions
	ports   *strings.Replacer
	https   int // the port of the sites with a name
	backend *backend
	env     []string
}

// openRecipe reads a page. It also starts the backend that the page assumes.
func openRecipe(t *testing.T, name string) *recipe {
	t.Helper()
	text, err := os.ReadFile("../docs/recipes/" + name + ".md")
	if err != nil {
		t.Fatal(err)
	}
	r := &recipe{T: t, text: string(text), dir: t.TempDir(), https: testserver.FreePort(t)}
	private := fmt.Sprint(testserver.FreePort(t))
	r.backend = newBackend(t, "http://127.0.0.1:"+private)
	r.ports = strings.NewReplacer(":3000", ":"+private, "127.0.0.1:8080", r.backend.Listener.Addr().String(),
		":3001", fmt.Sprint(":", testserver.FreePort(t)), ":3002", fmt.Sprint(":", testserver.FreePort(t)),
		":8000", fmt.Sprint(":", testserver.FreePort(t)), "/etc/caddy/", r.dir+"/", "/srv/app", r.dir+"/app")
	if err := os.Symlink(testserver.Binary(t), filepath.Join(r.dir, "caddy")); err != nil {
		t.Fatal(err)
	}
	r.setenv("HOME", r.dir)
	r.setenv("PATH", r.dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	return r
}

// backendOfThePage runs the backend that a page shows, which answers in place of the usual one. It does nothing if Python
// is not installed. The function that it returns ends the backend.
func (r *recipe) backendOfThePage() (end func()) {
	r.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		r.Log("python3 is not installed, so the backend of the page does not run")
		return func() {}
	}
	address := fmt.Sprint("127.0.0.1:", testserver.FreePort(r))
	port := strings.TrimPrefix(address, "127.0.0.1:")
	text := strings.Replace(r.block("python", 0), `("127.0.0.1", 8080)`, `("127.0.0.1", `+port+`)`, 1)
	cmd := exec.CommandContext(r.Context(), python, "-c", text)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		r.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		r.backend.program.Store(nil)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if r.Failed() {
			r.Logf("the backend of the page:\n%s", &log)
		}
	})
	r.Cleanup(end)
	awaitListener(r.T, address)
	r.backend.program.Store(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: address}))
	return end
}

// awaitListener waits until something listens at an address.
func awaitListener(t *testing.T, address string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing listens at %s", address)
		}
	}
}

// blocks returns the fenced blocks of one kind in a page.
func blocks(page, kind string) []string {
	var blocks []string
	for _, match := range regexp.MustCompile("(?ms)^```"+kind+"\n(.*?)^```$").FindAllStringSubmatch(page, -1) {
		blocks = append(blocks, match[1])
	}
	return blocks
}

// block returns a block of one kind, which comes after this many others of that kind.
func (r *recipe) block(kind string, after int) string {
	r.Helper()
	blocks := blocks(r.text, kind)
	if len(blocks) <= after {
		r.Fatalf("the page has only %d blocks of %s", len(blocks), kind)
	}
	return r.ports.Replace(blocks[after])
}

// setenv sets an environment variable for all sessions and servers.
func (r *recipe) setenv(name, value string) { r.env = append(r.env, name+"="+value) }

// start runs a configuration of the page, which comes after this many others. The sessions trust the certificates of
// its sites.
func (r *recipe) start(after int) *testserver.Server {
	r.Helper()
	sites, options := r.block("caddyfile", after), ""
	if rest, ok := strings.CutPrefix(sites, "{\n"); ok {
		options, sites, _ = strings.Cut(rest, "\n}\n")
	}
	s := testserver.New(r)
	s.Start(fmt.Sprintf("https_port %d\nhttp_port %d\ndefault_bind 127.0.0.1\n%s", r.https, testserver.FreePort(r), options), sites, r.env...)
	hosts := regexp.MustCompile(`(?m)^(\w+\.example\.com) \{`).FindAllStringSubmatch(sites, -1)
	for _, host := range hosts {
		awaitCertificate(r.T, s, host[1], r.https)
	}
	if len(hosts) > 0 {
		curlrc := fmt.Sprintf("connect-to = \":443:127.0.0.1:%d\"\ncacert = \"%s\"\n", r.https, filepath.Join(s.Dir, "storage/pki/authorities/local/root.crt"))
		if err := os.WriteFile(filepath.Join(r.dir, ".curlrc"), []byte(curlrc), 0o600); err != nil {
			r.Fatal(err)
		}
	}
	return s
}

// run runs a block of commands and returns their output.
func (r *recipe) run(commands string) string {
	r.Helper()
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			r.Skipf("%s is not installed", tool)
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", commands)
	cmd.Dir, cmd.Env = r.dir, append(os.Environ(), r.env...)
	output, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		r.Fatalf("%v:\n%s", err, output)
	}
	return string(output)
}

// session runs the page's session. Its output must match these patterns, one after the other.
func (r *recipe) session(patterns ...string) {
	r.Helper()
	output := r.run(r.block("sh", 0))
	rest := output
	for _, pattern := range patterns {
		found := regexp.MustCompile(pattern).FindStringIndex(rest)
		if found == nil {
			r.Fatalf("%q is not in\n%s\nof\n%s", pattern, rest, output)
		}
		rest = rest[found[1]:]
	}
}

// client returns a client that reaches the page's sites and trusts them.
func (r *recipe) client(s *testserver.Server, certificates ...tls.Certificate) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if strings.HasSuffix(address, ":443") {
				address = fmt.Sprint("127.0.0.1:", r.https)
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		TLSClientConfig: &tls.Config{RootCAs: s.Roots(), Certificates: certificates},
	}
	r.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// get sends a request. The header is a list of names and values in turn. The body of the reply is closed when the test
// ends.
func (r *recipe) get(client *http.Client, url string, header ...string) *http.Response {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	r.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.ports.Replace(url), nil)
	if err != nil {
		r.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { response.Body.Close() })
	return response
}

// wantStatus sends a request like get and checks the status of the reply.
func (r *recipe) wantStatus(status int, client *http.Client, url string, header ...string) {
	r.Helper()
	if response := r.get(client, url, header...); response.StatusCode != status {
		body, _ := io.ReadAll(response.Body)
		r.Errorf("%s: %s %s", url, response.Status, body)
	}
}

// firstMessage opens a WebSocket and returns its first message. The error is that of the handshake or of the read.
func (r *recipe) firstMessage(client *http.Client, url, session string) (string, error) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, r.ports.Replace(url), &websocket.DialOptions{
		HTTPClient: client, HTTPHeader: http.Header{"Cookie": {"session=" + session}},
	})
	if err != nil {
		return "", err
	}
	defer conn.CloseNow()
	_, text, err := conn.Read(ctx)
	return string(text), err
}

// line returns the rest of the next line that begins with the prefix, without surrounding spaces.
func (r *recipe) line(body *bufio.Reader, prefix string) string {
	r.Helper()
	for {
		line, err := body.ReadString('\n')
		if err != nil {
			r.Fatalf("no line begins with %q: %v", prefix, err)
		}
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return strings.TrimSpace(rest)
		}
	}
}

// A backend stands in for an application. It has a channel for each user's session.
type backend struct {
	*httptest.Server

	t       *testing.T
	private string                                // the URL of the site where it creates channels and writes
	program atomic.Pointer[httputil.ReverseProxy] // if not nil, another backend answers in place of this one

	mu       sync.Mutex
	channels map[string]channel // by the value of the session cookie
}

func newBackend(t *testing.T, private string) *backend {
	b := &backend{t: t, private: private, channels: map[string]channel{}}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

// ServeHTTP answers the requests that the recipes use. Like frameworks that speak WebSocket themselves, it accepts every
// upgrade that reaches it.
func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if program := b.program.Load(); program != nil {
		program.ServeHTTP(w, r)
		return
	}
	if r.Header.Get("Upgrade") != "" {
		b.serveOwnWebSocket(w, r)
		return
	}
	session, err := r.Cookie("session")
	if err != nil {
		http.Error(w, "please log in", http.StatusUnauthorized)
		return
	}
	channel := b.channel(session.Value)
	switch strings.TrimPrefix(r.URL.Path, "/api") {
	case "/channel":
		_, _ = io.WriteString(w, channel.ConsumerAddress)
	case "/hello":
		b.write(channel, `{"text":"hello"}`)
	case "/may-read":
		if path, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Uri"), "?"); path != "/read/"+channel.ConsumerAddress {
			http.Error(w, "not yours", http.StatusForbidden)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case "/events":
		w.Header().Set("Megaphone-Channel", channel.ConsumerAddress)
		w.WriteHeader(http.StatusNoContent)
	case "/":
		_, _ = io.WriteString(w, "a page")
	default:
		http.NotFound(w, r)
	}
}

// ownMessage is what the backend sends over a WebSocket of its own.
const ownMessage = "from the backend"

func (b *backend) serveOwnWebSocket(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		b.t.Error(err)
		return
	}
	defer conn.CloseNow()
	if err := conn.Write(r.Context(), websocket.MessageText, []byte(ownMessage)); err == nil {
		_, _, _ = conn.Read(r.Context()) // until the client closes
	}
}

// channel returns the channel of a session. It creates the channel if there is none.
func (b *backend) channel(session string) channel {
	b.mu.Lock()
	defer b.mu.Unlock()
	channel, ok := b.channels[session]
	if !ok {
		response, err := http.Post(b.private+"/create", "", nil)
		if err != nil {
			b.t.Error(err)
			return channel
		}
		defer response.Body.Close()
		if err := json.NewDecoder(response.Body).Decode(&channel); err != nil {
			b.t.Error(err)
		}
		b.channels[session] = channel
	}
	return channel
}

func (b *backend) write(channel channel, body string) {
	response, err := http.Post(b.private+"/write/"+channel.ProducerAddress+"/chat", "application/json", strings.NewReader(body))
	if err != nil {
		b.t.Error(err)
		return
	}
	response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		b.t.Errorf("write: %s", response.Status)
	}
}
