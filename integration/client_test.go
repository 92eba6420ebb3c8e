package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// patience is the limit for anything that should take a moment. It allows for a busy machine.
const patience = 30 * time.Second

// A client talks to a site of a server, as backends and consumers do.
type client struct {
	tb   testing.TB
	http *http.Client
	base string // the start of all URLs

	again atomic.Int64 // how many requests insist has repeated
}

// A channel has the addresses of a channel.
type channel struct {
	ProducerAddress, ConsumerAddress string
}

// A message is one line of a read.
type message struct {
	SID, EID, TS string
	Body         json.RawMessage
}

// startSite starts the server with global options and one site. The site is on a Unix socket and has the directives.
// startSite returns a client for the site.
func startSite(t *testing.T, s *testserver.Server, options, directives string) *client {
	t.Helper()
	s.Start(options, unixSite(s, directives))
	return &client{tb: t, http: testserver.UnixClient(t, s.Socket("site")), base: "http://localhost"}
}

// unixSite returns the configuration of the site that startSite serves.
func unixSite(s *testserver.Server, directives string) string {
	return "http:// {\nbind unix/" + s.Socket("site") + "\n" + directives + "\n}"
}

// startTCP is like startSite, but the site is on TCP. It also starts a server and returns the site's address.
func startTCP(t *testing.T, options, directives string) (s *testserver.Server, c *client, address string) {
	t.Helper()
	s = testserver.New(t)
	port := testserver.FreePort(t)
	s.Start(options, tcpSite(port, directives))
	return s, loadClient(t, port, false), fmt.Sprintf("127.0.0.1:%d", port)
}

// tcpSite returns the configuration of a site on TCP. It serves any host.
func tcpSite(port int, directives string) string {
	return fmt.Sprintf("http://:%d {\nbind 127.0.0.1\n%s\n}\n", port, directives)
}

// fetch gets a page, which must have status 200.
func fetch(tb testing.TB, c *http.Client, url string) []byte {
	tb.Helper()
	response, err := c.Get(url)
	if err != nil {
		tb.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		tb.Fatalf("%s: %s %v", url, response.Status, err)
	}
	return text
}

// awaitExit waits until the process of the server has ended.
func awaitExit(t *testing.T, s *testserver.Server) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Fatal("the process does not exit")
	}
}

// do sends a request. It returns when the header of the reply has arrived.
func (c *client) do(ctx context.Context, method, path string, header http.Header, body string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	maps.Copy(r.Header, header)
	return c.http.Do(r)
}

// post posts JSON. It returns the status and the text of the reply.
func (c *client) post(path, body string) (status int, text string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	response, err := c.do(ctx, http.MethodPost, path, http.Header{"Content-Type": {"application/json"}}, body)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(response.Body)
	return response.StatusCode, string(reply), err
}

func (c *client) create() channel {
	c.tb.Helper()
	status, text, err := c.post("/create", "")
	var created channel
	if err != nil || status != http.StatusOK || json.Unmarshal([]byte(text), &created) != nil {
		c.tb.Fatalf("create: %d %s %v", status, text, err)
	}
	return created
}

// write writes a message. The server must accept it.
func (c *client) write(to channel, body string) {
	c.tb.Helper()
	if status, text, err := c.post("/write/"+to.ProducerAddress+"/s", body); err != nil || status != http.StatusCreated {
		c.tb.Fatalf("write: %d %s %v", status, text, err)
	}
}

// A consumer reads a channel as existing clients do, and drops repeats. It expects the numbers from 0 on as the bodies
// of the messages. Anything else means that a message is lost or out of order.
type consumer struct {
	seen map[string]bool
	next int
}

func newConsumer() *consumer { return &consumer{seen: map[string]bool{}} }

// receive handles one line.
func (c *consumer) receive(line []byte) error {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return fmt.Errorf("line %q: %w", line, err)
	}
	if c.seen[m.EID] {
		return nil
	}
	c.seen[m.EID] = true
	if string(m.Body) != fmt.Sprint(c.next) {
		return fmt.Errorf("message %s instead of %d", m.Body, c.next)
	}
	c.next++
	return nil
}

// readToEnd receives the lines of a response. It returns an error unless the response ends cleanly, after a whole line.
func (c *consumer) readToEnd(lines *bufio.Reader) error {
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %q: %w", line, err)
		}
		if err := c.receive(line); err != nil {
			return err
		}
	}
}
