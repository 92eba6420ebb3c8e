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

// A network has a server on TCP, with and without TLS, and a bad network between the server and its clients.
type network struct {
	*testserver.Server
	*testing.T

	http, https string // URLs
	producer    *http.Client
	dial        func(ctx context.Context, network, address string) (net.Conn, error)
}

// newNetwork starts a server. The settings go into the global option megaphone.
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

func (n *network) create(tb testing.TB) channel {
	tb.Helper()
	var ch channel
	status, body := n.post(tb, "/create", "application/json", "{}")
	if err := json.Unmarshal(body, &ch); err != nil || status != http.StatusOK {
		tb.Fatalf("create: %d %s", status, body)
	}
	return ch
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

// write writes a message. It returns the status of the reply.
func (n *network) write(tb testing.TB, ch channel, body string) int {
	tb.Helper()
	status, _ := n.post(tb, "/write/"+ch.ProducerAddress+"/s", "application/json", body)
	return status
}

// writeMany writes count messages, the numbers from 0, as fast as the consumer takes them.
func (n *network) writeMany(tb testing.TB, ch channel, count int) {
	tb.Helper()
	const batch = 50
	for i := 0; i < count; i += batch {
		var text bytes.Buffer
		fmt.Fprintf(&text, `{"channels":[%q],"messages":[`, ch.ProducerAddress)
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

// A view has the bodies of the messages that a consumer has received, without repeats, and its cursor.
type view struct {
	seen   map[string]bool
	bodies []string
	cursor string
}

func newView() *view { return &view{seen: map[string]bool{}} }

func (v *view) add(tb testing.TB, line []byte) message {
	tb.Helper()
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		tb.Fatalf("%q: %v", line, err)
	}
	v.cursor = m.EID
	if !v.seen[m.EID] {
		v.seen[m.EID] = true
		v.bodies = append(v.bodies, string(m.Body))
	}
	return m
}

// isWhole checks that the view has exactly count messages, the numbers from 0, in order.
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

// A connection says how a plain reader connects.
type connection struct{ secure, http2 bool }

// plainConnections has all ways to connect a plain reader.
var plainConnections = map[string]connection{
	"HTTP/1.1": {false, false},
	"TLS":      {true, false},
	"HTTP/2":   {true, true},
}

// A link is a client's connection. A test can stall it, so that the client reads nothing, and can reset it.
type link struct {
	*net.TCPConn

	mu    sync.Mutex
	moves *sync.Cond
	stuck bool
}

// A linkClient is an HTTP client whose connections are links.
type linkClient struct {
	*http.Client

	link atomic.Pointer[link] // the newest link
}

const smallBuffer = 16 << 10

// linkClient returns a client whose machine buffers only little unread data.
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

// stall makes the client stop reading, or go on.
func (l *link) stall(stuck bool) {
	l.mu.Lock()
	l.stuck = stuck
	l.mu.Unlock()
	l.moves.Broadcast()
}

// reset breaks the connection as a crash of the client does.
func (l *link) reset() {
	_ = l.SetLinger(0)
	l.Close()
	l.stall(false)
}

// open begins a read. It returns when the header of the reply has arrived.
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

// openAccepted is like open, but the server must accept the read.
func openAccepted(tb testing.TB, c *http.Client, url string) *http.Response {
	tb.Helper()
	response := open(tb, c, url)
	if response.StatusCode != http.StatusOK {
		tb.Fatalf("%s: %s", url, response.Status)
	}
	return response
}

// plainReader begins a plain read. It returns the link of the read, on which the test reads nothing.
func (n *network) plainReader(tb testing.TB, ch channel, how connection) *link {
	tb.Helper()
	client, url := n.linkClient(tb, how.http2), n.http
	if how.secure {
		url = n.https
	}
	response := openAccepted(tb, client.Client, url+"/read/"+ch.ConsumerAddress)
	if (response.ProtoMajor == 2) != how.http2 {
		tb.Fatal(response.Proto)
	}
	return client.link.Load()
}

// stalledReader begins a plain read and stalls it.
func (n *network) stalledReader(tb testing.TB, ch channel, how connection) *link {
	tb.Helper()
	l := n.plainReader(tb, ch, how)
	l.stall(true)
	return l
}

// pollAll polls until nothing is left, and adds the messages to the view.
func (n *network) pollAll(tb testing.TB, ch channel, v *view) {
	tb.Helper()
	query := ""
	for {
		response := openAccepted(tb, n.producer, n.http+"/read/"+ch.ConsumerAddress+"?poll=100ms"+query)
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
