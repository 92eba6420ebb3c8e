package transport

import (
	"errors"
	"net"
	"net/http"
	"os"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A connection is the rest of an HTTP/1.1 response, on a connection that was taken over from net/http after the header
// was sent. The handler can return then, and with it go its deep stack and the buffers of net/http, which are most of
// what a reader takes that waits (docs/performance.md). Each write to it is one to the socket, without the deadlines that
// Caddy sets on the way.
type connection struct {
	conn   *net.TCPConn
	server *http.Server // is given the connection for the next request; nil if this response is its last
	out    frame

	gone     chan struct{} // closed when the client is gone
	watching sync.WaitGroup
	early    []byte // what the client has sent of its next request
	first    [1]byte
}

// takeOver takes the connection of a response over whose header was sent. It does so only where nobody is worse off: the
// response is passed on as it is, by nobody who counts or changes it, such as the access log; Caddy is not set to limit
// how long it may take; and the connection has no layer, such as TLS, that would keep its own buffers anyway.
func takeOver(w http.ResponseWriter, r *http.Request) (*connection, bool) {
	if r.ProtoMajor != 1 || r.ProtoMinor < 1 || r.Method != http.MethodGet || r.ContentLength != 0 || !isBare(w) {
		return nil, false
	}
	conn, ok := r.Context().Value(caddyhttp.ConnCtxKey).(net.Conn)
	if !ok || tcp(conn) == nil {
		return nil, false
	}
	server, ok := r.Context().Value(http.ServerContextKey).(*http.Server)
	if !ok {
		return nil, false
	}
	if r.Close || w.Header().Get("Connection") == "close" {
		server = nil
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, false
	}
	c := &connection{conn: tcp(conn), server: server, gone: make(chan struct{})}
	if n := buffered.Reader.Buffered(); n > 0 {
		early, _ := buffered.Reader.Peek(n) // they are there
		c.early = append(c.early, early...)
	} else {
		c.watching.Add(1)
		go c.watch()
	}
	return c, true
}

// tcp returns a connection without what a former takeover has put around it; nil if it is no bare TCP connection.
func tcp(conn net.Conn) *net.TCPConn {
	switch c := conn.(type) {
	case *net.TCPConn:
		return c
	default:
		return nil
	}
}

// isBare reports whether there is nothing around net/http's own writer but what sets Caddy's deadlines, and none of those
// is a limit to the whole response.
func isBare(w http.ResponseWriter) bool {
	for {
		switch outer := w.(type) {
		case *caddyhttp.IdleTimeoutWriter:
			if outer.Deadline.MinRate > 0 || !outer.Deadline.HardDeadline.IsZero() {
				return false
			}
			w = outer.ResponseWriter
		case interface{ Unwrap() http.ResponseWriter }:
			// Caddy does not export the type. If it gets another name, TestTakeOver will tell.
			if reflect.TypeOf(w).String() != "*caddyhttp.readDeadlineWriter" {
				return false
			}
			w = outer.Unwrap()
		default:
			return reflect.TypeOf(w).String() == "*http.response"
		}
	}
}

// watch notices when the client is gone. It ends at the first byte of the client's next request, as net/http does.
func (c *connection) watch() {
	defer c.watching.Done()
	n, err := c.conn.Read(c.first[:])
	if n > 0 {
		c.early = c.first[:n]
	} else if !errors.Is(err, os.ErrDeadlineExceeded) {
		close(c.gone)
	}
}

// put adds a chunk of the response (RFC 9112, 7.1) to what flush sends.
func (c *connection) put(p []byte) {
	if len(p) == 0 {
		return // an empty chunk is the end
	}
	var digits [16]byte
	c.out.append(strconv.AppendInt(digits[:0], int64(len(p)), 16), crlf, p, crlf)
}

var (
	crlf      = []byte("\r\n")
	lastChunk = []byte("0\r\n\r\n")
)

// flush sends what was put, of which the client must take each piece within the timeout. The deadline is left armed: on a
// bare connection only the next write looks at it.
func (c *connection) flush(timeout time.Duration) error {
	defer c.out.free()
	for p := c.out.bytes(); len(p) > 0; {
		if err := c.conn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		n, err := c.conn.Write(p[:min(maxPiece, len(p))])
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// end ends the response, cleanly or not.
func (c *connection) end(why Reason, timeout time.Duration) {
	_ = c.conn.SetReadDeadline(time.Unix(1, 0))
	c.watching.Wait()
	if why != Broken {
		c.out.append(lastChunk)
		_ = c.flush(timeout)
	}
	_ = c.conn.Close()
}
