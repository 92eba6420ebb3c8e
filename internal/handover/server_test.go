package handover

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// An address is where tests open one listener after the other, in memory. Clients connect to the newest listener.
type address struct{ newest *memoryListener }

// A memoryListener accepts pipes.
type memoryListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (a *address) listen() *memoryListener {
	a.newest = &memoryListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	return a.newest
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memoryListener) Addr() net.Addr { return memoryAddr{} }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "here" }

// inBubble runs a test in a bubble, with a server named "old" at an address, and a client that is connected to it.
func inBubble(t *testing.T, test func(t *testing.T, a *address, old *server, c *client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := new(address)
		old := a.serve(t, "old")
		test(t, a, old, a.dial(t))
	})
}

// dial connects a client to the newest listener.
func (a *address) dial(t *testing.T) *client {
	t.Helper()
	near, far := net.Pipe()
	select {
	case a.newest.conns <- far:
	case <-time.After(time.Second):
		t.Fatal("nobody accepts the connection")
	}
	t.Cleanup(func() { near.Close() })
	return &client{t, near, bufio.NewReader(near)}
}

type client struct {
	t    *testing.T
	conn net.Conn
	from *bufio.Reader
}

// send sends text, with CRLF as line ends.
func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, strings.ReplaceAll(text, "\n", "\r\n")); err != nil {
		c.t.Error(err)
	}
}

// answer returns the body of the next response, or the text of the error.
func (c *client) answer() string {
	response, err := http.ReadResponse(c.from, nil)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

func (c *client) expect(want string) {
	c.t.Helper()
	if got := c.answer(); got != want {
		c.t.Errorf("the client got %q, want %q", got, want)
	}
}

// exchange sends a request and expects an answer.
func (c *client) exchange(request, want string) {
	c.t.Helper()
	c.send(request)
	c.expect(want)
}

func (c *client) expectPrefix(want string) {
	c.t.Helper()
	if got := c.answer(); !strings.HasPrefix(got, want) {
		c.t.Errorf("the client got %q, want a text that begins with %q", got, want)
	}
}

func (c *client) expectClosed() {
	c.t.Helper()
	c.expect("unexpected EOF")
}

func (c *client) expectClosedAtOnce() {
	c.t.Helper()
	began := time.Now()
	c.expectClosed()
	if waited := time.Since(began); waited > 0 {
		c.t.Errorf("the connection was closed after %s, want at once", waited)
	}
}

// A server answers with its name and the request.
type server struct {
	*http.Server

	t        *testing.T
	ends     chan struct{} // when closed, requests to /slow and /abort end
	served   []string      // paths
	accepted int           // connections
	resumes  chan struct{} // when closed, requests reach the handler; nil if they need not wait
}

// serve starts a server on a new listener at the address.
func (a *address) serve(t *testing.T, name string) *server {
	s := &server{t: t, ends: make(chan struct{})}
	s.Server = &http.Server{
		IdleTimeout: time.Minute,
		Protocols:   new(http.Protocols),
		ConnState:   s.changed,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if c, ok := conn.(*Conn); ok {
				return c.Context(ctx)
			}
			return ctx
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.handle(name, w, r) }),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	listener := Listen(a.listen(), Settings{Idle: time.Minute})
	go func() { _ = s.Serve(listener) }()
	synctest.Wait()
	t.Cleanup(func() {
		s.Close()
		time.Sleep(time.Second) // Shutdown polls for the end of its connections
	})
	return s
}

// changed implements [http.Server.ConnState].
func (s *server) changed(conn net.Conn, state http.ConnState) {
	if c, ok := conn.(*Conn); ok {
		c.Changed(state)
	}
	if state == http.StateNew {
		s.accepted++
	}
	if state == http.StateActive && s.resumes != nil {
		<-s.resumes
	}
}

// handle answers a request.
func (s *server) handle(name string, w http.ResponseWriter, r *http.Request) {
	r.Context().Value("any") // as Caddy does
	s.served = append(s.served, r.URL.Path)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	switch r.URL.Path {
	case "/slow":
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-s.ends
	case "/abort":
		<-s.ends
		panic(http.ErrAbortHandler)
	}
	fmt.Fprintf(w, "%s: %s %s", name, r.URL.Path, body)
}

// stop shuts the server down as Caddy does: without waiting for requests.
func (s *server) stop() {
	go func() { _ = s.Shutdown(context.Background()) }()
	synctest.Wait()
}

// replace starts a server named "new" and then stops the old one.
func (a *address) replace(t *testing.T, old *server) (successor *server) {
	successor = a.serve(t, "new")
	old.stop()
	return successor
}

func (s *server) expectServed(paths ...string) {
	s.t.Helper()
	if got, want := fmt.Sprint(s.served), fmt.Sprint(paths); got != want {
		s.t.Errorf("the server has served %s, want %s", got, want)
	}
}

// get returns a request without a body. Its lines end as [client.send] expects.
func get(path string) string { return fmt.Sprintf("GET /%s HTTP/1.1\nHost: x\n\n", path) }

// post returns a request with a body. Its lines end as [client.send] expects.
func post(path, body string) string {
	return fmt.Sprintf("POST /%s HTTP/1.1\nHost: x\nContent-Length: %d\n\n%s", path, len(body), body)
}
