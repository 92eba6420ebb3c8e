package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// middlewares has what may come before the handler, as directives of a site.
var middlewares = map[string]string{
	"nothing":      "",
	"gzip":         "encode gzip",
	"zstd":         "encode zstd",
	"templates":    "templates",
	"log":          "log {\noutput discard\n}",
	"request-body": "request_body {\nmax_size 1MB\n}",
	"timeouts":     "timeouts {\nread_timeout 5s\nwrite_timeout 5s 1\n}",
	"metrics":      "", // an option of the whole server
	"wrapper":      "", // another option of the whole server
}

// transports has the ways to read. Each function reads a channel and writes to it. It fails unless the header and each
// message arrive at once. ctx limits how long that may take.
var transports = map[string]func(context.Context, *testing.T, *client, protocol){
	"ndjson":    readLines,
	"sse":       readEvents,
	"websocket": readWebSocket,
	"poll":      readPoll,
}

// soon is what "at once" means on a busy machine. If something buffered the messages, they would take longer, because
// reads last 20 s.
const soon = 10 * time.Second

// TestEverythingArrivesAtOnce checks that the header and each message of a read arrive at once, whatever comes before
// the handler, and with every protocol.
func TestEverythingArrivesAtOnce(t *testing.T) {
	t.Parallel()
	ports := map[bool]int{true: testserver.FreePort(t), false: testserver.FreePort(t)}
	var sites strings.Builder
	for name, directives := range middlewares {
		fmt.Fprintf(&sites, "http://%[1]s.localhost:%[2]d, https://%[1]s.localhost:%[3]d {\nbind 127.0.0.1\n%[4]s\nmegaphone\n}\n",
			name, ports[false], ports[true], directives)
	}
	const options = "servers {\nprotocols h1 h2 h2c h3\n}\n"
	s := testserver.New(t)
	s.Start(options, sites.String(), "GODEBUG=http2xconnect=1") // allows HTTP/2 clients to ask for WebSockets
	roots := s.Roots()
	test := func(middleware string) {
		awaitCertificate(t, s, middleware+".localhost", ports[true])
		for _, protocol := range protocols {
			c := protocol.client(t, middleware+".localhost", ports, roots)
			for name, read := range transports {
				t.Run(fmt.Sprintf("%s/%s/%s", middleware, protocol.name, name), func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), soon)
					defer cancel()
					c.tb = t
					if name == "websocket" && protocol.connect != nil {
						refuseWebSocket(ctx, t, c, protocol.connect(t, address(ports[protocol.tls]), roots))
					} else {
						read(ctx, t, c, protocol)
					}
				})
			}
		}
	}
	for name := range middlewares {
		if name != "metrics" && name != "wrapper" {
			test(name)
		}
	}
	if err := s.Reload(options+"metrics {\nper_host\n}\n", sites.String()); err != nil {
		t.Fatal(err)
	}
	test("metrics")
	const wrapper = "servers {\nprotocols h1 h2 h2c h3\nlistener_wrappers {\nmegaphone\ntls\n}\n}\n"
	if err := s.Reload(wrapper, sites.String()); err != nil {
		t.Fatal(err)
	}
	test("wrapper")
}

// openRead opens a read and checks the header of the reply.
func openRead(ctx context.Context, t *testing.T, c *client, p protocol, path, accept string) *bufio.Reader {
	t.Helper()
	// The client accepts compression, which the server must not use.
	header := http.Header{"Accept": {accept}, "Accept-Encoding": {"gzip, zstd"}}
	response, err := c.do(ctx, http.MethodGet, path, header, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != accept ||
		response.Header.Get("Content-Encoding") != "" || response.ProtoMajor != p.major {
		t.Fatalf("%s %s %v", response.Proto, response.Status, response.Header)
	}
	return bufio.NewReader(response.Body)
}

func readLines(ctx context.Context, t *testing.T, c *client, p protocol) {
	channel := c.create()
	lines := openRead(ctx, t, c, p, "/read/"+channel.ConsumerAddress, "application/x-ndjson")
	for _, body := range []string{"1", "2"} {
		c.write(channel, body)
		line, err := lines.ReadBytes('\n')
		wantMessage(t, line, body, err)
	}
}

func wantMessage(t *testing.T, text []byte, body string, err error) {
	t.Helper()
	var m message
	if err != nil || json.Unmarshal(text, &m) != nil || string(m.Body) != body {
		t.Fatalf("%q, %v, want message %s", text, err, body)
	}
}

func readEvents(ctx context.Context, t *testing.T, c *client, p protocol) {
	channel := c.create()
	lines := openRead(ctx, t, c, p, "/read/"+channel.ConsumerAddress, "text/event-stream")
	wantLine := func(prefix string) []byte {
		t.Helper()
		line, err := lines.ReadBytes('\n')
		rest, ok := bytes.CutPrefix(line, []byte(prefix))
		if err != nil || !ok {
			t.Fatalf("%q, %v, want %s", line, err, prefix)
		}
		return rest
	}
	wantLine("retry: 1000\n")
	for _, body := range []string{"1", "2"} {
		c.write(channel, body)
		wantLine("id: ")
		wantMessage(t, wantLine("data: "), body, nil)
		wantLine("\n")
	}
}

func readPoll(ctx context.Context, t *testing.T, c *client, p protocol) {
	channel := c.create()
	writing := time.AfterFunc(20*time.Millisecond, func() { // the poll most likely waits by then
		_, _, _ = c.post("/write/"+channel.ProducerAddress+"/s", "1")
	})
	defer writing.Stop()
	lines := openRead(ctx, t, c, p, "/read/"+channel.ConsumerAddress+"?poll=20s", "application/x-ndjson")
	line, err := io.ReadAll(lines)
	wantMessage(t, line, "1", err)
}

func readWebSocket(ctx context.Context, t *testing.T, c *client, _ protocol) {
	channel := c.create()
	conn, _, err := websocket.Dial(ctx, c.base+"/read/"+channel.ConsumerAddress, &websocket.DialOptions{HTTPClient: c.http})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	for _, body := range []string{"1", "2"} {
		c.write(channel, body)
		_, text, err := conn.Read(ctx)
		wantMessage(t, text, body, err)
	}
}

// refuseWebSocket asks for a WebSocket over HTTP/2 or HTTP/3 (RFC 8441, RFC 9220). The server must refuse it with an
// error message, not with a broken stream.
func refuseWebSocket(ctx context.Context, t *testing.T, c *client, connect http.RoundTripper) {
	channel := c.create()
	r, err := http.NewRequestWithContext(ctx, http.MethodConnect, c.base+"/read/"+channel.ConsumerAddress, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Sec-WebSocket-Version", "13")
	if _, ok := connect.(*http3.Transport); ok {
		r.Proto = "websocket"
	} else {
		r.Header[":protocol"] = []string{"websocket"}
	}
	response, err := connect.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusMethodNotAllowed || !bytes.Contains(text, []byte("WebSockets are served over HTTP/1.1")) {
		t.Errorf("%s %s %v", response.Status, text, err)
	}
}
