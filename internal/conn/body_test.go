package conn

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

var errEnded = errors.New("the process exits")

// A bodyServer serves one connection of HTTP/1.1 in a bubble, as Caddy does: a reader keeps the deadlines of each body. The
// requests go to a handler, which reads the body and replies.
type bodyServer struct {
	t       *testing.T
	bodies  *Bodies
	client  net.Conn
	replies *bufio.Reader
	done    chan time.Time // receives when a handler has returned
}

// onePipe is a listener that accepts one connection.
type onePipe chan net.Conn

func (l onePipe) Accept() (net.Conn, error) {
	if conn, ok := <-l; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (l onePipe) Close() error   { close(l); return nil }
func (l onePipe) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// newBodyServer starts a server with a handler that refuses requests after it has read limit bytes of the body. If keeper
// is false, the site has no read_body_idle.
func newBodyServer(t *testing.T, limit int64, keeper bool) *bodyServer {
	s := &bodyServer{t: t, bodies: NewBodies(errEnded), done: make(chan time.Time, 10)}
	server := &http.Server{ConnContext: With, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { s.done <- time.Now() }()
		if keeper {
			reader := &caddyhttp.IdleTimeoutReader{
				ReadCloser: r.Body, Ctrl: http.NewResponseController(w), Logger: zap.NewNop(), DrainDeadline: true,
				Deadline: caddyhttp.IdleDeadline{Start: time.Now(), Timeout: time.Minute},
			}
			defer reader.HandlerDone()
			r.Body = reader
			r = r.WithContext(caddyhttp.ContextWithIdleTimeouts(r.Context(), reader, nil))
		}
		body := s.bodies.Begin(w, r)
		status := http.StatusOK
		switch n, err := io.Copy(io.Discard, io.LimitReader(r.Body, limit)); {
		case errors.Is(err, errEnded):
			status = http.StatusServiceUnavailable
		case err != nil:
			status = http.StatusBadRequest
		case n == limit:
			status = http.StatusRequestEntityTooLarge
		}
		if body.BeginReply() {
			w.Header().Set("Connection", "close")
			w.Header().Set("Content-Length", "0")
		}
		w.WriteHeader(status)
		body.Finish()
	})}
	listener := make(onePipe)
	go func() { _ = server.Serve(listener) }()
	client, conn := net.Pipe()
	listener <- conn
	s.client, s.replies = client, bufio.NewReader(client)
	t.Cleanup(func() {
		client.Close()
		server.Close()
		time.Sleep(time.Second) // net/http may wait for the client before it closes the connection
	})
	return s
}

// send sends text.
func (s *bodyServer) send(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.client, text); err != nil {
		s.t.Fatal(err)
	}
}

// wants reads a reply.
func (s *bodyServer) wants(status int, last bool) {
	s.t.Helper()
	response, err := http.ReadResponse(s.replies, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if response.StatusCode != status || response.Close != last {
		s.t.Errorf("%s, and the connection ends: %v, want %d and %v", response.Status, response.Close, status, last)
	}
}

const (
	withLength = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
	inChunks   = "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
)

// TestEndEndsReadsOfBodies ends bodies while they are read, and just before. The reply must come at once, and the
// connection must be closed soon, though the client sends nothing and keeps the connection.
func TestEndEndsReadsOfBodies(t *testing.T) {
	for name, head := range map[string]string{"length": fmt.Sprintf(withLength, 1000), "large": fmt.Sprintf(withLength, 1<<30), "chunks": inChunks + "4\r\nbody\r\n"} {
		for _, keeper := range []bool{true, false} {
			for _, before := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, keeper %v, before %v", name, keeper, before), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := newBodyServer(t, 1<<20, keeper)
						if before {
							s.bodies.End()
						}
						s.send(head)
						synctest.Wait()
						began := time.Now()
						s.bodies.End()
						s.wants(http.StatusServiceUnavailable, true)
						if took := time.Since(began); took > 0 {
							t.Errorf("the reply came after %v", took)
						}
						if took := (<-s.done).Sub(began); took != MaxExitLinger {
							t.Errorf("the handler returned after %v, want %v", took, MaxExitLinger)
						}
						if n, err := s.client.Read(make([]byte, 1)); err == nil || time.Since(began) != MaxExitLinger {
							t.Errorf("the connection has %d bytes, %v, after %v", n, err, time.Since(began))
						}
					})
				})
			}
		}
	}
}

// TestEndLeavesBodiesAloneThatWereRead checks a request whose body was read to its end before End. net/http reads on to notice
// when its client goes.
func TestEndLeavesBodiesAloneThatWereRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBodyServer(t, 1<<20, true)
		for range 2 {
			s.send(fmt.Sprintf(withLength, 4) + "body")
			s.wants(http.StatusOK, false)
		}
		s.bodies.End()
		synctest.Wait()
		s.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		s.wants(http.StatusOK, false)
	})
}

// TestLingerIsBounded has clients that send a body which is refused after its first byte. It checks when the server gives
// up waiting for its end.
func TestLingerIsBounded(t *testing.T) {
	drip := func(every time.Duration, piece string) func(s *bodyServer) {
		return func(s *bodyServer) {
			for {
				if _, err := io.WriteString(s.client, piece); err != nil {
					return
				}
				time.Sleep(every)
			}
		}
	}
	for name, test := range map[string]struct {
		head   string
		client func(s *bodyServer)
		took   time.Duration
		ends   bool // the process exits after the reply
		status int  // if it is not 413
	}{
		"pauses":         {head: fmt.Sprintf(withLength, 1<<30) + "b", client: func(*bodyServer) {}, took: maxLingerPause},
		"drips":          {head: fmt.Sprintf(withLength, 1<<30) + "b", client: drip(time.Second, "x"), took: maxLinger},
		"sends for ever": {head: inChunks + "1\r\nb\r\n", client: drip(0, strings.Repeat("x", 1<<20)), took: 0},
		"is gone":        {head: inChunks + "1\r\nb\r\n", client: func(s *bodyServer) { s.client.Close() }, took: 0},
		"breaks chunks":  {head: inChunks + "1\r\nb\r\nno chunk\r\n", client: drip(time.Second, "x"), took: maxLinger, status: http.StatusBadRequest},
		"at the exit":    {head: inChunks + "1\r\nb\r\n", client: drip(time.Millisecond, "x"), took: MaxExitLinger, ends: true},
		"expects 100":    {head: strings.Replace(fmt.Sprintf(withLength, 9), "\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n", 1) + "b", client: func(*bodyServer) {}, took: maxLingerPause},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newBodyServer(t, 1, true)
				s.send(test.head)
				began := time.Now()
				if name == "expects 100" {
					s.wants(http.StatusContinue, false)
				}
				s.wants(cmp.Or(test.status, http.StatusRequestEntityTooLarge), true)
				if took := time.Since(began); took > 0 {
					t.Errorf("the reply came after %v", took)
				}
				go test.client(s)
				synctest.Wait()
				if test.ends {
					s.bodies.End()
				}
				if took := (<-s.done).Sub(began); took != test.took {
					t.Errorf("the handler returned after %v, want %v", took, test.took)
				}
			})
		})
	}
}

// TestAConnectionWithAShortRestIsKept checks that the rest of a short body is read before the reply, if it comes.
func TestAConnectionWithAShortRestIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBodyServer(t, 1, true)
		for range 2 {
			s.send(fmt.Sprintf(withLength, 4) + "b")
			synctest.Wait()
			s.send("ody")
			s.wants(http.StatusRequestEntityTooLarge, false)
		}
		began := time.Now()
		s.send(fmt.Sprintf(withLength, 4) + "b")
		s.wants(http.StatusRequestEntityTooLarge, true)
		if took := time.Since(began); took != maxLingerPause {
			t.Errorf("the reply to a client that stalls came after %v, want %v", took, maxLingerPause)
		}
	})
}
