package integration

import (
	"bufio"
	"context"
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

	"github.com/coder/websocket"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// On SIGTERM, with the grace period of a server that has set none, which is for ever: every open read ends cleanly,
// every held write gets its answer, and the process is gone within a second. That holds for reads whose handlers wait, as
// they do when metrics observe them, and for those that were taken over from net/http.
func TestShutdownAnswersEverybodyAtOnce(t *testing.T) {
	for name, listen := range map[string]func(s *testserver.Server) (options, bind, network, address string){
		"Unix socket with metrics": func(s *testserver.Server) (options, bind, network, address string) {
			return "metrics", "http:// {\nbind unix/" + s.Socket("site"), "unix", s.Socket("site")
		},
		"TCP": func(*testserver.Server) (options, bind, network, address string) {
			port := testserver.FreePort(t)
			return "", fmt.Sprintf("http://:%d {\nbind 127.0.0.1", port), "tcp", fmt.Sprintf("127.0.0.1:%d", port)
		},
	} {
		for transport, read := range shutdownReads {
			t.Run(name+", "+transport, func(t *testing.T) {
				s := testserver.New(t)
				options, bind, network, address := listen(s)
				s.Start(options+"\nmegaphone {\nbuffer 1\nhold 1m\nread_duration 1m\n}", bind+"\nmegaphone\n}")
				dialer := &http.Client{Transport: &http.Transport{
					DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
						return new(net.Dialer).DialContext(ctx, network, address)
					},
				}}
				t.Cleanup(dialer.CloseIdleConnections)
				reads := 100
				if name == "TCP" {
					reads = 1000 // which have no goroutine
				}
				shutsDownAtOnce(t, s, &client{tb: t, http: dialer, base: "http://localhost"}, reads, read)
			})
		}
	}
}

// A shutdownRead opens a read, and returns when its first message has come. What it returns waits for a clean end.
type shutdownRead func(ctx context.Context, c *client, from channel) (ended func() error, err error)

var shutdownReads = map[string]shutdownRead{
	"NDJSON": func(ctx context.Context, c *client, from channel) (func() error, error) {
		return openStream(ctx, c, from, "application/x-ndjson")
	},
	"server-sent events": func(ctx context.Context, c *client, from channel) (func() error, error) {
		return openStream(ctx, c, from, "text/event-stream")
	},
	"WebSocket": openSocket,
}

// openStream opens a read whose response ends with a chunk of its own: without it, reading the body fails.
func openStream(ctx context.Context, c *client, from channel, accept string) (ended func() error, err error) {
	response, err := c.do(ctx, http.MethodGet, "/read/"+from.ConsumerAddress, http.Header{"Accept": {accept}}, "")
	if err != nil {
		return nil, err
	}
	c.tb.Cleanup(func() { response.Body.Close() })
	if got := response.Header.Get("Content-Type"); !strings.HasPrefix(got, accept) {
		return nil, fmt.Errorf("%s %s", response.Status, got)
	}
	lines := bufio.NewReader(response.Body)
	for line := ""; !strings.Contains(line, `"body":0}`); {
		if line, err = lines.ReadString('\n'); err != nil {
			return nil, err
		}
	}
	return func() error {
		rest, err := io.ReadAll(lines)
		if err == nil && strings.Contains(string(rest), "body") {
			err = fmt.Errorf("it ends with %q", rest)
		}
		return err
	}, nil
}

func openSocket(ctx context.Context, c *client, from channel) (ended func() error, err error) {
	conn, _, err := websocket.Dial(ctx, c.base+"/read/"+from.ConsumerAddress, &websocket.DialOptions{HTTPClient: c.http})
	if err != nil {
		return nil, err
	}
	c.tb.Cleanup(func() { _ = conn.CloseNow() })
	if _, text, err := conn.Read(ctx); err != nil || !strings.Contains(string(text), `"body":0}`) {
		return nil, fmt.Errorf("%q, %w", text, err)
	}
	return func() error {
		_, text, err := conn.Read(ctx)
		if websocket.CloseStatus(err) != websocket.StatusGoingAway {
			return fmt.Errorf("it ends with %q, %w", text, err)
		}
		return nil
	}, nil
}

func shutsDownAtOnce(t *testing.T, s *testserver.Server, c *client, reads int, read shutdownRead) {
	t.Helper()
	const writes = 20
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	ends := make([]func() error, reads)
	for i := range ends {
		from := c.create()
		c.write(from, "0")
		var err error
		if ends[i], err = read(ctx, c, from); err != nil {
			t.Fatal(err)
		}
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
	awaitMetric(s, "caddy_megaphone_readers", reads)
	awaitMetric(s, "caddy_megaphone_held_producers", writes)

	start := time.Now()
	gone := make(chan time.Duration, 1)
	go func() { // the clients, which see to their ends below, may take longer
		<-s.Done()
		gone <- time.Since(start)
	}()
	s.Signal(syscall.SIGTERM)
	for range writes {
		a := <-answers
		var e struct{ Code string }
		if a.err != nil || a.status != http.StatusServiceUnavailable || json.Unmarshal([]byte(a.text), &e) != nil || e.Code != "TIMEOUT" {
			t.Errorf("a held write: %d %s %v", a.status, a.text, a.err)
		}
	}
	for _, ended := range ends {
		if err := ended(); err != nil {
			t.Errorf("a read: %v", err)
		}
	}
	select {
	case took := <-gone:
		if took > time.Second {
			t.Errorf("the process was gone after %v", took)
		}
	case <-time.After(patience):
		t.Fatal("the process does not end")
	}
}

// awaitMetric waits until the sum of a gauge over its labels has a value.
func awaitMetric(s *testserver.Server, name string, want int) {
	lines := regexp.MustCompile(`(?m)^` + name + `(?:\{.*\})? (\d+)$`)
	s.Await(fmt.Sprintf("%s is %d", name, want), func() bool {
		response, err := s.Admin().Get("http://localhost/metrics")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		sum := 0
		for _, line := range lines.FindAllSubmatch(text, -1) {
			n, _ := strconv.Atoi(string(line[1]))
			sum += n
		}
		return err == nil && sum == want
	})
}

// TestExitTellsWhatItLeavesBehind: the messages in channels when the process exits are logged, and not those of channels
// that were deleted long before.
func TestExitTellsWhatItLeavesBehind(t *testing.T) {
	for undelivered, want := range map[int]string{0: "", 2: `"undelivered":2}`} {
		s := testserver.New(t)
		s.Start("megaphone", "http:// {\nbind unix/"+s.Socket("site")+"\nmegaphone create write manage\n}")
		c := &client{tb: t, http: testserver.UnixClient(t, s.Socket("site")), base: "http://localhost"}
		deleted, left := c.create(), c.create()
		for range 5 {
			c.write(deleted, "0")
		}
		response, err := c.do(t.Context(), http.MethodDelete, "/channel/"+deleted.ProducerAddress, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		for range undelivered {
			c.write(left, "0")
		}
		s.Stop()
		if told := strings.Contains(s.Log(), "messages in them"); told != (want != "") || !strings.Contains(s.Log(), want) {
			t.Errorf("with %d messages left, the log has\n%s", undelivered, s.Log())
		}
	}
}

// TestExitInTheMiddleOfAReload: whether the process is told to exit before a reload, in the midst of one, or after it,
// reads end and the process is gone. The time between differs from try to try; in each there are a few reads that stay
// in their handlers, as they do when there is an access log.
func TestExitInTheMiddleOfAReload(t *testing.T) {
	const site = "log {\noutput discard\n}\nmegaphone\n}"
	for after := time.Duration(0); after <= 5*time.Millisecond; after += 500 * time.Microsecond {
		s := testserver.New(t)
		address := "http:// {\nbind unix/" + s.Socket("site") + "\n"
		s.Start("megaphone", address+site)
		c := &client{tb: t, http: testserver.UnixClient(t, s.Socket("site")), base: "http://localhost"}
		from := c.create()
		c.write(from, "0")
		ended, err := openStream(t.Context(), c, from, "text/event-stream")
		if err != nil {
			t.Fatal(err)
		}
		reloaded := make(chan error, 1)
		go func() { reloaded <- s.Reload("megaphone {\nbuffer 7\n}", address+site) }()
		time.Sleep(after)
		s.Signal(syscall.SIGTERM)
		select {
		case <-s.Done():
		case <-time.After(5 * time.Second):
			t.Fatalf("told to exit %v after a reload began, the process does not end", after)
		}
		if err := ended(); err != nil {
			t.Errorf("the read: %v", err)
		}
		<-reloaded // may have succeeded or not
	}
}
