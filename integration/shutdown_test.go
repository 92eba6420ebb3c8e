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
	"slices"
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

// TestShutdownAnswersEverybodyAtOnce sends SIGTERM to a server without a grace period, so the grace period is unlimited. Every
// open read ends cleanly, every held write gets its answer, and the process ends at once, which is within a second unless the
// machine is busy. That holds for reads whose handlers wait, as they do when metrics observe them, and for reads on hijacked
// connections.
func TestShutdownAnswersEverybodyAtOnce(t *testing.T) {
	for name, listen := range map[string]func(s *testserver.Server) (options, site, network, address string){
		"Unix socket with metrics": func(s *testserver.Server) (options, site, network, address string) {
			return "metrics", unixSite(s, "megaphone"), "unix", s.Socket("site")
		},
		"TCP": func(*testserver.Server) (options, site, network, address string) {
			port := testserver.FreePort(t)
			return "", tcpSite(port, "megaphone"), "tcp", fmt.Sprintf("127.0.0.1:%d", port)
		},
	} {
		for transport, read := range shutdownReads {
			t.Run(name+", "+transport, func(t *testing.T) {
				s := testserver.New(t)
				options, site, network, address := listen(s)
				s.Start(options+"\nmegaphone {\nbuffer 1\nhold 1m\nread_duration 1m\n}", site)
				dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, address)
				}
				dialer := &http.Client{Transport: &http.Transport{DialContext: dial}}
				t.Cleanup(dialer.CloseIdleConnections)
				reads := map[bool]int{true: 1000, false: 100}[name == "TCP"] // those over TCP need no goroutine
				shutsDownAtOnce(t, s, &client{tb: t, http: dialer, base: "http://localhost"}, reads, read)
			})
		}
	}
}

// A shutdownRead opens a read. It returns when the first message has arrived. The returned function waits for the end
// of the read, and returns an error unless the end is clean.
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

// openStream opens a read over HTTP/1.1. A clean end is a final chunk: without it, reading the body fails.
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
			err = fmt.Errorf("the read ends with %q", rest)
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
			return fmt.Errorf("the read ends with %q, %w", text, err)
		}
		return nil
	}, nil
}

func shutsDownAtOnce(t *testing.T, s *testserver.Server, c *client, reads int, read shutdownRead) {
	t.Helper()
	const writes = 20
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	channels, producers := make([]channel, reads), make([]string, reads)
	for i := range channels {
		channels[i] = c.create()
		producers[i] = channels[i].ProducerAddress
	}
	for some := range slices.Chunk(producers, 100) {
		to, err := json.Marshal(some)
		if err != nil {
			t.Fatal(err)
		}
		batch := fmt.Sprintf(`{"channels":%s,"messages":[{"streamId":"s","body":0}]}`, to)
		if status, text, err := c.post("/write-batch", batch); status != http.StatusCreated || text != `{"failures":[]}` {
			t.Fatal(status, text, err)
		}
	}
	ends := make([]func() error, reads)
	for i, from := range channels {
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
	go func() { // checking the clients below may take longer
		<-s.Done()
		gone <- time.Since(start)
	}()
	s.Signal(syscall.SIGTERM)
	for range writes {
		a := <-answers
		var e struct{ Code string }
		if a.err != nil || a.status != http.StatusServiceUnavailable || json.Unmarshal([]byte(a.text), &e) != nil || e.Code != "TIMEOUT" {
			t.Errorf("a held write got %d %s %v", a.status, a.text, a.err)
		}
	}
	for _, ended := range ends {
		if err := ended(); err != nil {
			t.Errorf("a read: %v", err)
		}
	}
	select {
	case took := <-gone:
		t.Logf("the process ended after %v", took)
		if took > promptly {
			t.Errorf("the process ended after %v", took)
		}
	case <-time.After(patience):
		t.Fatal("the process does not end")
	}
}

// awaitMetric waits until the sum of a gauge over its labels is the wanted value.
func awaitMetric(s *testserver.Server, name string, want int) {
	s.Await(fmt.Sprintf("%s is %d", name, want), func() bool { return sumOfMetric(s, name) == want })
}

// sumOfMetric returns the sum of a gauge over its labels, or -1 if the metrics cannot be read.
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

// TestExitClosesConnectionsOfProducers checks that the exit closes hijacked connections of producers, as net/http
// closes idle connections, so that clients no longer use them. A request that has only partly arrived does not delay
// the exit.
func TestExitClosesConnectionsOfProducers(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	upstream, err := net.Listen("unix", s.Socket("upstream"))
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	c := startSite(t, s, "megaphone", "megaphone\nreverse_proxy unix/"+s.Socket("upstream"))
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
	held, err := upstream.Accept() // Caddy waits for the answer to this request
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
		t.Error("the process did not wait for a request")
	default:
	}
	held.Close()
	awaitExit(t, s)
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("the process ended after %v", took)
	}
}

// TestExitDoesNotWaitForTheEndOfResponses has clients that stall. A client's socket may have room for all messages but
// not for the end of the response, which net/http writes after the handler has returned. The number of messages that
// fit depends on the system, so the test tries many numbers.
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
			c := startSite(t, s, "servers {\nprotocols h1 h2c\n}\nmegaphone {\nread_duration 3s\n}", "log {\noutput discard\n}\nmegaphone")
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
			s.Await("some reads have ended by themselves", func() bool { return sumOfMetric(s, "caddy_megaphone_channels_read") < most-least })
			start := time.Now()
			s.Signal(syscall.SIGTERM)
			awaitExit(t, s)
			if took := time.Since(start); took > promptly {
				t.Errorf("the process ended after %v", took)
			}
		})
	}
}

// http2Request returns the bytes of a request over HTTP/2 with prior knowledge. The client's flow-control window has
// room for any response.
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

// TestExitTellsWhatItLeavesBehind checks that the exit logs how many messages are left in channels. Messages of
// channels that were deleted before do not count.
func TestExitTellsWhatItLeavesBehind(t *testing.T) {
	t.Parallel()
	for undelivered, want := range map[int]string{0: "", 2: `"undelivered":2}`} {
		s := testserver.New(t)
		c := startSite(t, s, "megaphone", "megaphone create write manage")
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
		if logged := strings.Contains(s.Log(), "messages in them"); logged != (want != "") || !strings.Contains(s.Log(), want) {
			t.Errorf("with %d messages left, the log has\n%s", undelivered, s.Log())
		}
	}
}
