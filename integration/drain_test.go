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
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// A drainClient is one channel of the drain test, with its producer and its consumer.
type drainClient struct {
	channel

	accepted []string            // the bodies of writes with a 201, in order
	received map[string]struct{} // the bodies that the consumer has received
}

func TestDrainUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "megaphone {\nread_duration 2s\n}")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	modes := []string{"ndjson", "cursor", "sse", "poll", "websocket"}
	clients := make([]*drainClient, 40)
	var all sync.WaitGroup
	for i := range clients {
		c := &drainClient{received: map[string]struct{}{}}
		reply := s.request(ctx, http.MethodPost, "/create", nil, "")
		if err := json.NewDecoder(reply.Body).Decode(&c.channel); err != nil {
			t.Fatal(err)
		}
		reply.Body.Close()
		clients[i] = c
		all.Go(func() { c.produce(ctx, s) })
		if mode := modes[i%len(modes)]; mode == "websocket" {
			all.Go(func() { c.consumeSocket(ctx, s) })
		} else {
			all.Go(func() { c.consume(ctx, s, mode) })
		}
	}
	s.Await("there is load", func() bool {
		return sumOfMetric(s.Server, "caddy_megaphone_messages_accepted_total") >= 20*len(clients)
	})

	out, _ := s.run(0, "", "drain", "--over", "2s", "--wait", "--timeout", "90s", "--json")
	state := decode[struct {
		Draining, Done                   bool
		Channels, Remaining, Undelivered int
	}](t, out)
	if !state.Draining || !state.Done || state.Channels != len(clients) || state.Remaining != 0 || state.Undelivered != 0 {
		t.Errorf("state %s", out)
	}
	all.Wait() // all have learned that their channel is gone
	for i, c := range clients {
		for n, body := range c.accepted {
			if _, ok := c.received[body]; !ok {
				t.Errorf("client %d (%s): message %d of %d is lost", i, modes[i%len(modes)], n, len(c.accepted))
				break
			}
		}
		if len(c.accepted) == 0 {
			t.Errorf("client %d has written nothing", i)
		}
	}

	if _, errs := s.run(5, "", "create"); !strings.Contains(errs, "drained") {
		t.Errorf("create: %s", errs)
	}
	if out, _ := s.run(0, "", "drain", "--status"); !strings.HasPrefix(out, "drained: 0 of 40 channels are left") {
		t.Errorf("status: %s", out)
	}
	if out, _ := s.run(0, "", "drain", "--undo"); out != "not draining\n" {
		t.Errorf("undo: %s", out)
	}
	s.run(0, "", "create")
}

func TestDrainTimesOutWhereNobodyReads(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "")
	a := s.create()
	s.run(0, "", "send", a.ProducerAddress, "s", "1")
	if _, errs := s.run(6, "", "drain", "--over", "0s", "--wait", "--timeout", "1s"); !strings.Contains(errs, "not drained after 1s") {
		t.Errorf("drain: %s", errs)
	}
	s.run(4, "", "send", a.ProducerAddress, "s", "2")
	s.run(0, "", "drain", "--undo")
	s.run(0, "", "send", a.ProducerAddress, "s", "2")
}

// request sends a request to the server's site. The context can end it. On an error, it fails the test and returns nil.
func (s *commandServer) request(ctx context.Context, method, path string, header http.Header, body string) *http.Response {
	s.Helper()
	r, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.Error(err)
		return nil
	}
	if header != nil {
		r.Header = header
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		s.Error(err)
		return nil
	}
	return response
}

// produce writes until the channel is gone.
func (c *drainClient) produce(ctx context.Context, s *commandServer) {
	header := http.Header{"Content-Type": {"application/json"}}
	for n := 0; ; n++ {
		body := fmt.Sprint(n)
		reply := s.request(ctx, http.MethodPost, "/write/"+c.ProducerAddress+"/s", header, body)
		if reply == nil {
			return
		}
		_, _ = io.Copy(io.Discard, reply.Body)
		_ = reply.Body.Close()
		switch reply.StatusCode {
		case http.StatusCreated:
			c.accepted = append(c.accepted, body)
		case http.StatusNotFound:
			return
		default:
			s.Errorf("write: %s", reply.Status)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// consume reads until the channel is gone. mode says which kind of client it is.
func (c *drainClient) consume(ctx context.Context, s *commandServer, mode string) {
	for cursor := ""; ; {
		path, header := "/read/"+c.ConsumerAddress, http.Header{}
		switch mode {
		case "cursor":
			path += "?after=" + cursor
		case "poll":
			path += "?poll=1s&after=" + cursor
		case "sse":
			header = http.Header{"Accept": {"text/event-stream"}, "Last-Event-Id": {cursor}}
		}
		reply := s.request(ctx, http.MethodGet, path, header, "")
		if reply == nil {
			return
		}
		if reply.StatusCode != http.StatusOK {
			_ = reply.Body.Close()
			if reply.StatusCode != http.StatusNotFound {
				s.Errorf("%s: read: %s", mode, reply.Status)
			}
			return
		}
		lines := bufio.NewScanner(reply.Body)
		for lines.Scan() {
			line := bytes.TrimPrefix(lines.Bytes(), []byte("data: "))
			if !bytes.HasPrefix(line, []byte("{")) {
				continue
			}
			var m message
			if err := json.Unmarshal(line, &m); err != nil {
				s.Errorf("%q: %v", line, err)
				return
			}
			cursor = m.EID
			c.received[string(m.Body)] = struct{}{}
		}
		if err := lines.Err(); err != nil {
			s.Errorf("%s: the read broke: %v", mode, err)
		}
		_ = reply.Body.Close()
	}
}

// consumeSocket is like consume, but over WebSockets with acknowledgements.
func (c *drainClient) consumeSocket(ctx context.Context, s *commandServer) {
	for cursor := ""; ; {
		conn, reply, err := websocket.Dial(ctx, s.url+"/read/"+c.ConsumerAddress+"?after="+cursor, nil)
		if err != nil {
			if reply == nil || reply.StatusCode != http.StatusNotFound {
				s.Errorf("dial: %v", err)
			}
			return
		}
		for {
			_, text, err := conn.Read(ctx)
			if err != nil {
				if code := websocket.CloseStatus(err); code != websocket.StatusGoingAway && code != 4404 {
					s.Errorf("websocket: %v", err)
				}
				break
			}
			var m message
			if err := json.Unmarshal(text, &m); err != nil {
				s.Errorf("%q: %v", text, err)
				return
			}
			cursor = m.EID
			c.received[string(m.Body)] = struct{}{}
			_ = conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"ack":%q}`, m.EID)) // fails if the connection is gone
		}
		_ = conn.CloseNow()
	}
}

func TestHealthFailsBeforeTheServerStopsServing(t *testing.T) {
	t.Parallel()
	s := &commandServer{testserver.New(t), t, fmt.Sprintf("http://127.0.0.1:%d", testserver.FreePort(t))}
	s.Start("shutdown_delay 3s", s.site("megaphone create health"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	status := func(method, path string) int {
		reply := s.request(ctx, method, path, nil, "")
		if reply == nil {
			t.Fatal("no reply")
		}
		_ = reply.Body.Close()
		return reply.StatusCode
	}
	if got := status(http.MethodGet, "/health"); got != http.StatusOK {
		t.Errorf("health %d", got)
	}
	s.Signal(syscall.SIGTERM)
	s.Await("health fails", func() bool { return status(http.MethodGet, "/health") == http.StatusServiceUnavailable })
	if got := status(http.MethodPost, "/create"); got != http.StatusOK {
		t.Errorf("create %d", got)
	}
	<-s.Done()
}

// TestClientsLeaveDuringTheShutdownDelay: a reply that leaves the connection open would let a client send a request when nobody
// serves it any more.
func TestClientsLeaveDuringTheShutdownDelay(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	c := startSite(t, s, "shutdown_delay 2s\nmegaphone {\nread_duration 10ms\n}", "megaphone")
	to := c.create()
	requests := map[string]string{
		"create": "POST /create HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
		"write": fmt.Sprintf("POST /write/%s/s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n1",
			to.ProducerAddress),
		"read": fmt.Sprintf("GET /read/%s HTTP/1.1\r\nHost: localhost\r\n\r\n", c.create().ConsumerAddress),
	}
	exchange := map[string]func() (closes bool){}
	for name, request := range requests {
		conn, err := net.Dial("unix", s.Socket("site"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
			t.Fatal(err)
		}
		replies := bufio.NewReader(conn)
		exchange[name] = func() (closes bool) {
			t.Helper()
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			reply, err := http.ReadResponse(replies, nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, err := io.Copy(io.Discard, reply.Body); err != nil || reply.StatusCode/100 != 2 {
				t.Errorf("%s: %s, %v", name, reply.Status, err)
			}
			return reply.Close
		}
		for range 20 { // some kinds of requests soon bypass net/http
			if exchange[name]() {
				t.Errorf("the reply to %s ends the connection too early", name)
			}
		}
	}
	awaitMetric(s, "caddy_megaphone_direct_connections", 1)
	s.Signal(syscall.SIGTERM)
	for name := range requests {
		for !exchange[name]() {
		}
	}
	awaitExit(t, s)
}

// TestIdleConnectionsCloseBeforeReadsEnd: at the exit, a client whose read has ended reads again at once. It must not choose an
// idle connection that the server is just closing.
func TestIdleConnectionsCloseBeforeReadsEnd(t *testing.T) {
	t.Parallel()
	for range 3 { // on a busy machine, the client may notice late that the connections are closed
		if readOutlivesIdleConnections(t) {
			return
		}
	}
	t.Error("reads end together with idle connections")
}

// readOutlivesIdleConnections reports whether a read is still open a moment after idle connections were closed at the exit.
func readOutlivesIdleConnections(t *testing.T) (outlives bool) {
	t.Helper()
	s := testserver.New(t)
	c := startSite(t, s, "shutdown_delay 10ms\nmegaphone {\nread_duration 10ms\n}", "megaphone")
	stream, reader := getOn(t, s, "/read/"+c.create().ConsumerAddress, "Accept: text/event-stream\r\n")
	var idle []net.Conn
	for _, path := range []string{"/health", "/read/" + c.create().ConsumerAddress} {
		reply, conn := getOn(t, s, path, "")
		if _, err := io.Copy(io.Discard, reply.Body); err != nil || reply.Close {
			t.Fatalf("%s: the reply closes the connection: %v, %v", path, reply.Close, err)
		}
		idle = append(idle, conn)
	}
	s.Signal(syscall.SIGTERM)
	for _, conn := range idle {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("an idle connection ends with %v", err)
		}
	}
	if err := reader.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err := io.Copy(io.Discard, stream.Body)
	awaitExit(t, s)
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// getOn sends a GET request on a connection of its own, and returns the reply, of which the header has come.
func getOn(t *testing.T, s *testserver.Server, path, header string) (*http.Response, net.Conn) {
	t.Helper()
	conn, err := net.Dial("unix", s.Socket("site"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", path, header); err != nil {
		t.Fatal(err)
	}
	reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return reply, conn
}
