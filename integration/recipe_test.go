package integration

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// A recipe is a page of docs/recipes. Its configurations and commands run as they stand, but for ports and paths.
type recipe struct {
	*testing.T

	text    string
	dir     string // HOME of the sessions, and their working directory
	ports   *strings.Replacer
	https   int // where sites with a name listen
	backend *backend
	env     []string
}

// openRecipe reads a page, and starts the backend that it presumes.
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
		":8000", fmt.Sprint(":", testserver.FreePort(t)), "/etc/caddy/", r.dir+"/")
	if err := os.Symlink(testserver.Binary(t), filepath.Join(r.dir, "caddy")); err != nil {
		t.Fatal(err)
	}
	r.setenv("HOME", r.dir)
	r.setenv("PATH", r.dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	return r
}

// blocks returns the fenced blocks of a kind in a page.
func blocks(page, kind string) []string {
	var blocks []string
	for _, match := range regexp.MustCompile("(?ms)^```"+kind+"\n(.*?)^```$").FindAllStringSubmatch(page, -1) {
		blocks = append(blocks, match[1])
	}
	return blocks
}

// block returns the block of a kind that comes after so many others.
func (r *recipe) block(kind string, after int) string {
	r.Helper()
	blocks := blocks(r.text, kind)
	if len(blocks) <= after {
		r.Fatalf("the page has %d blocks of %s", len(blocks), kind)
	}
	return r.ports.Replace(blocks[after])
}

// setenv sets a variable of the environment of all sessions and servers.
func (r *recipe) setenv(name, value string) { r.env = append(r.env, name+"="+value) }

// start runs a configuration of the page. Its sites get certificates that sessions trust.
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
		s.Await(host[1]+" has its certificate", func() bool {
			conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", r.https))
			if err != nil {
				return false
			}
			defer conn.Close()
			client := tls.Client(conn, &tls.Config{RootCAs: s.Roots(), ServerName: host[1]})
			return client.HandshakeContext(r.Context()) == nil
		})
	}
	if len(hosts) > 0 {
		curlrc := fmt.Sprintf("connect-to = \":443:127.0.0.1:%d\"\ncacert = \"%s\"\n", r.https, filepath.Join(s.Dir, "storage/pki/authorities/local/root.crt"))
		if err := os.WriteFile(filepath.Join(r.dir, ".curlrc"), []byte(curlrc), 0o600); err != nil {
			r.Fatal(err)
		}
	}
	return s
}

// run runs a block of commands and returns what they say.
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

// session runs the page's session, in whose output these patterns must be found, one after the other.
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

// client returns a client that finds the page's sites, and trusts them.
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

// get sends a request whose header is given as pairs, and returns the reply, which ends with the test.
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

// wantStatus checks the status of a request as get sends it.
func (r *recipe) wantStatus(status int, client *http.Client, url string, header ...string) {
	r.Helper()
	if response := r.get(client, url, header...); response.StatusCode != status {
		body, _ := io.ReadAll(response.Body)
		r.Errorf("%s: %s %s", url, response.Status, body)
	}
}

// line returns the next line of a reply that begins with the prefix.
func (r *recipe) line(body *bufio.Reader, prefix string) string {
	r.Helper()
	for {
		line, err := body.ReadString('\n')
		if err != nil {
			r.Fatalf("no line with %q: %v", prefix, err)
		}
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return strings.TrimSpace(rest)
		}
	}
}

// A backend stands in for an application: it has a channel for each of its users.
type backend struct {
	*httptest.Server

	t       *testing.T
	private string // the site on which it creates channels and writes

	mu       sync.Mutex
	channels map[string]backendChannel // by the session's cookie
}

type backendChannel struct{ ProducerAddress, ConsumerAddress string }

func newBackend(t *testing.T, private string) *backend {
	b := &backend{t: t, private: private, channels: map[string]backendChannel{}}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

// ServeHTTP answers the requests that the recipes speak of.
func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	session, err := r.Cookie("session")
	if err != nil {
		http.Error(w, "please log in", http.StatusUnauthorized)
		return
	}
	channel := b.channel(session.Value)
	switch r.URL.Path {
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

// channel returns the channel of a session, and creates it if there is none.
func (b *backend) channel(session string) backendChannel {
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

func (b *backend) write(channel backendChannel, body string) {
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
