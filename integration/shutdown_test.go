package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
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
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

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
	s.Await(fmt.Sprintf("%s is %d", name, want), func() bool { return sumOfMetric(s, name) == want })
}

// sumOfMetric returns the sum of a gauge over its labels, or -1 if it is not known.
func sumOfMetric(s *testserver.Server, name string) (sum int) {
	response, err := s.Admin().Get("http://localhost/metrics")
	if err != nil {
		return -1
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return -1
	}
	for _, line := range regexp.MustCompile(`(?m)^`+name+`(?:\{.*\})? (\d+)$`).FindAllSubmatch(text, -1) {
		n, _ := strconv.Atoi(string(line[1]))
		sum += n
	}
	return sum
}

// TestExitClosesConnectionsOfProducers: as net/http closes those without a request, so that clients use them no more. It
// does not delay the exit if a request had begun to come.
func TestExitClosesConnectionsOfProducers(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	upstream, err := net.Listen("unix", s.Socket("upstream"))
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	s.Start("megaphone", "http:// {\nbind unix/"+s.Socket("site")+"\nmegaphone\nreverse_proxy unix/"+s.Socket("upstream")+"\n}")
	c := &client{tb: t, http: testserver.UnixClient(t, s.Socket("site")), base: "http://localhost"}
	to := c.create()
	request := fmt.Sprintf("POST /write/%s/s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n1", to.ProducerAddress)
	producers := map[string]net.Conn{"idle": nil, "with the begin of a request": nil}
	for name := range producers {
		conn, err := net.Dial("unix", s.Socket("site"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
			t.Fatal(err)
		}
		replies := bufio.NewReader(conn)
		for range 10 {
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			response, err := http.ReadResponse(replies, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, response.Body)
		}
		producers[name] = conn
	}
	awaitMetric(s, "caddy_megaphone_direct_connections", 2)
	if _, err := io.WriteString(producers["with the begin of a request"], request[:20]); err != nil {
		t.Fatal(err)
	}
	awaitMetric(s, "caddy_megaphone_direct_connections", 1)
	go func() { _, _, _ = c.post("/another", "") }()
	held, err := upstream.Accept() // Caddy waits for this
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()

	start := time.Now()
	s.Signal(syscall.SIGTERM)
	for name, conn := range producers {
		if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
			t.Errorf("the connection that is %s: %q, %v", name, rest, err)
		}
	}
	select {
	case <-s.Done():
		t.Error("the process has not waited for a request")
	default:
	}
	held.Close()
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Fatal("the process does not end")
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("the process was gone after %v", took)
	}
}

// TestExitDoesNotWaitForTheEndOfResponses: a client that stalls may have left room for all messages, but none for the end
// of the response, which net/http writes when the handler has returned. At which message that is depends on the system.
func TestExitDoesNotWaitForTheEndOfResponses(t *testing.T) {
	t.Parallel()
	const least, most = 30, 70
	message := `{"streamId":"s","body":"` + strings.Repeat("x", 3500) + `"}`
	for name, request := range map[string]func(path string) string{
		"HTTP/1.1": func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n" },
		"HTTP/2":   func(path string) string { return http2Request(t, path) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t)
			s.Start("servers {\nprotocols h1 h2c\n}\nmegaphone {\nread_duration 3s\n}",
				"http:// {\nbind unix/"+s.Socket("site")+"\nlog {\noutput discard\n}\nmegaphone\n}")
			c := &client{tb: t, http: testserver.UnixClient(t, s.Socket("site")), base: "http://localhost"}
			requests := make([]string, most-least)
			for i := range requests {
				from := c.create()
				batch := fmt.Sprintf(`{"channels":[%q],"messages":[%s]}`, from.ProducerAddress, strings.Repeat(message+",", least+i-1)+message)
				if status, text, err := c.post("/write-batch", batch); status != http.StatusCreated || text != `{"failures":[]}` {
					t.Fatal(status, text, err)
				}
				requests[i] = request("/read/" + from.ConsumerAddress)
			}
			for _, request := range requests {
				conn, err := net.Dial("unix", s.Socket("site"))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := io.WriteString(conn, request); err != nil {
					t.Fatal(err)
				}
			}
			awaitMetric(s, "caddy_megaphone_readers", most-least)
			s.Await("some have ended by themselves", func() bool { return sumOfMetric(s, "caddy_megaphone_readers") < most-least })
			start := time.Now()
			s.Signal(syscall.SIGTERM)
			select {
			case <-s.Done():
			case <-time.After(patience):
				t.Fatal("the process does not end")
			}
			if took := time.Since(start); took > promptly {
				t.Errorf("the process was gone after %v", took)
			}
		})
	}
}

// http2Request is a request over HTTP/2 with prior knowledge, of a client that has room for any response.
func http2Request(t *testing.T, path string) string {
	t.Helper()
	var text, header bytes.Buffer
	text.WriteString(http2.ClientPreface)
	framer, encoder := http2.NewFramer(&text, nil), hpack.NewEncoder(&header)
	err := errors.Join(framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30}), framer.WriteWindowUpdate(0, 1<<30))
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "localhost"}, {":path", path}} {
		err = errors.Join(err, encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}))
	}
	err = errors.Join(err, framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: header.Bytes(), EndStream: true, EndHeaders: true,
	}))
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
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
