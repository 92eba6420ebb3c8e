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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// A network is a server that is reached over TCP, with and without TLS, by clients that the network treats badly.
type network struct {
	*testserver.Server
	*testing.T

	http, https string // URLs
	producer    *http.Client
	dial        func(ctx context.Context, network, address string) (net.Conn, error)
}

// newNetwork starts a server with settings of the global option megaphone.
func newNetwork(tb testing.TB, settings string, env ...string) *network {
	tb.Helper()
	n := &network{Server: testserver.New(tb), dial: new(net.Dialer).DialContext}
	n.T, _ = tb.(*testing.T)
	n.start(tb, settings, env...)
	return n
}

func (n *network) start(tb testing.TB, settings string, env ...string) {
	tb.Helper()
	plain, secure := testserver.FreePort(tb), testserver.FreePort(tb)
	n.http, n.https = fmt.Sprintf("http://127.0.0.1:%d", plain), fmt.Sprintf("https://localhost:%d", secure)
	n.Start("debug\nmegaphone {\n"+settings+"\n}", fmt.Sprintf("%s, %s {\nmegaphone\n}", n.http, n.https), env...)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return n.dial(ctx, network, address)
		},
		MaxIdleConnsPerHost: 100,
	}
	tb.Cleanup(transport.CloseIdleConnections)
	n.producer = &http.Client{Transport: transport, Timeout: time.Minute}
	roots := n.Roots()
	n.Await("there is a certificate", func() bool {
		conn, err := n.dial(context.Background(), "tcp", strings.TrimPrefix(n.https, "https://"))
		if err != nil {
			return false
		}
		defer conn.Close()
		return tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}).Handshake() == nil
	})
}

// A mailbox has the addresses of a channel.
type mailbox struct{ ProducerAddress, ConsumerAddress string }

func (n *network) create(tb testing.TB) mailbox {
	tb.Helper()
	var m mailbox
	status, body := n.post(tb, "/create", "application/json", "{}")
	if err := json.Unmarshal(body, &m); err != nil || status != http.StatusOK {
		tb.Fatalf("create: %d %s", status, body)
	}
	return m
}

func (n *network) post(tb testing.TB, path, contentType, body string) (status int, reply []byte) {
	tb.Helper()
	response, err := n.producer.Post(n.http+path, contentType, strings.NewReader(body))
	if err != nil {
		tb.Error(err)
		return 0, nil
	}
	defer response.Body.Close()
	reply, err = io.ReadAll(response.Body)
	if err != nil {
		tb.Error(err)
	}
	return response.StatusCode, reply
}

// write writes a message and returns the status.
func (n *network) write(tb testing.TB, m mailbox, body string) int {
	tb.Helper()
	status, _ := n.post(tb, "/write/"+m.ProducerAddress+"/s", "application/json", body)
	return status
}

// writeMany writes the numbers from 0 to count as messages, as fast as the consumer takes them.
func (n *network) writeMany(tb testing.TB, m mailbox, count int) {
	tb.Helper()
	const batch = 50
	for i := 0; i < count; i += batch {
		var text bytes.Buffer
		fmt.Fprintf(&text, `{"channels":[%q],"messages":[`, m.ProducerAddress)
		for j := i; j < i+batch; j++ {
			fmt.Fprintf(&text, `{"streamId":"s","body":%d},`, j)
		}
		text.Truncate(text.Len() - 1)
		text.WriteString("]}")
		if status, reply := n.post(tb, "/write-batch", "application/json", text.String()); status != 201 || string(reply) != `{"failures":[]}` {
			tb.Errorf("write-batch: %d %s", status, reply)
			return
		}
	}
}

// An event is a message as a consumer gets it.
type event struct {
	EID  string
	Body json.RawMessage
}

// A view is what a consumer has seen, without repeats.
type view struct {
	seen   map[string]bool
	bodies []string
	cursor string
}

func newView() *view { return &view{seen: map[string]bool{}} }

func (v *view) add(tb testing.TB, line []byte) event {
	tb.Helper()
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		tb.Fatalf("%q: %v", line, err)
	}
	v.cursor = e.EID
	if !v.seen[e.EID] {
		v.seen[e.EID] = true
		v.bodies = append(v.bodies, string(e.Body))
	}
	return e
}

// isWhole checks that the view is the numbers from 0 to count, in order.
func (v *view) isWhole(tb testing.TB, count int) {
	tb.Helper()
	for i, body := range v.bodies {
		if body != fmt.Sprint(i) {
			tb.Fatalf("message %d is %s", i, body)
		}
	}
	if len(v.bodies) != count {
		tb.Fatalf("%d messages, want %d", len(v.bodies), count)
	}
}

// plainConnections are the ways a plain reader is connected by.
var plainConnections = map[string]struct{ secure, http2 bool }{
	"HTTP/1.1": {false, false},
	"TLS":      {true, false},
	"HTTP/2":   {true, true},
}

// A link is a client's connection, on which nothing is read while it is stalled, and which can be reset.
type link struct {
	*net.TCPConn

	mu    sync.Mutex
	moves *sync.Cond
	stuck bool
}

// A linkClient is an HTTP client with links.
type linkClient struct {
	*http.Client

	link atomic.Pointer[link] // the newest
}

const smallBuffer = 16 << 10

// linkClient returns a client whose machine has little room for what it does not read.
func (n *network) linkClient(tb testing.TB, http2 bool) *linkClient {
	tb.Helper()
	c := &linkClient{}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := n.dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			tcp := conn.(*net.TCPConn)
			_ = tcp.SetReadBuffer(smallBuffer)
			l := &link{TCPConn: tcp}
			l.moves = sync.NewCond(&l.mu)
			c.link.Store(l)
			return l, nil
		},
		ForceAttemptHTTP2: http2,
	}
	if n.https != "" {
		transport.TLSClientConfig = &tls.Config{RootCAs: n.Roots(), MinVersion: tls.VersionTLS12}
	}
	tb.Cleanup(transport.CloseIdleConnections)
	c.Client = &http.Client{Transport: transport}
	return c
}

// Read implements [net.Conn].
func (l *link) Read(p []byte) (int, error) {
	l.mu.Lock()
	for l.stuck {
		l.moves.Wait()
	}
	l.mu.Unlock()
	return l.TCPConn.Read(p)
}

// stall stops reading, or goes on.
func (l *link) stall(stuck bool) {
	l.mu.Lock()
	l.stuck = stuck
	l.mu.Unlock()
	l.moves.Broadcast()
}

// reset breaks the connection as a crash does.
func (l *link) reset() {
	_ = l.SetLinger(0)
	l.Close()
	l.stall(false)
}

// open begins a read, and returns when the header of its reply is there.
func open(tb testing.TB, c *http.Client, url string) *http.Response {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	tb.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		tb.Fatal(err)
	}
	response, err := c.Do(r)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { response.Body.Close() })
	return response
}

// drain polls until there is nothing more, and adds it to the view.
func (n *network) drain(tb testing.TB, m mailbox, v *view) {
	tb.Helper()
	query := ""
	for {
		response := open(tb, n.producer, n.http+"/read/"+m.ConsumerAddress+"?poll=100ms"+query)
		if response.StatusCode != http.StatusOK {
			tb.Fatalf("poll: %s", response.Status)
		}
		scanner := bufio.NewScanner(response.Body)
		scanner.Buffer(nil, 1<<20)
		got := false
		for scanner.Scan() {
			got = true
			v.add(tb, scanner.Bytes())
		}
		if !got {
			return
		}
		query = "&after=" + v.cursor
	}
}
