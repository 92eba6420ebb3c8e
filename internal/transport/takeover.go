package transport

import (
	"net"
	"net/http"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/handover"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// A connection carries the rest of an HTTP/1.1 response after it was taken over from net/http, once the header was sent.
// The handler can return then, and with it go its deep stack and the buffers of net/http, which are most of the
// memory of a reader that waits (docs/performance.md). And each write to it is one to the socket, without the deadlines
// that are set on the way through Caddy.
type connection struct {
	net.Conn

	origin net.Conn     // what the server had accepted
	server *http.Server // is given the connection for the next request; nil if this response is its last
	writer socket.Writer
	out    chunks // for flush

	watch clientWatch
	early []byte // what the client had sent of its next request before
}

// takeOver takes over the connection of a response whose header was sent. It must have chunks for its body. When the
// client has gone, gone is called.
func takeOver(w http.ResponseWriter, r *http.Request, conn net.Conn, gone func()) (*connection, bool) {
	if !r.ProtoAtLeast(1, 1) || r.ProtoMajor != 1 || r.Method != http.MethodGet || r.ContentLength != 0 || handover.Socket(conn) == nil {
		return nil, false
	}
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	if r.Close || w.Header().Get("Connection") == "close" {
		server = nil
	}
	_, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, false
	}
	bare := handover.Socket(conn)
	c := &connection{Conn: bare, origin: conn, server: server, writer: socket.NewWriter(bare)}
	c.watch.init(bare, gone)
	if n := buffered.Reader.Buffered(); n > 0 {
		early, _ := buffered.Peek(n) // they are there
		c.early = append(c.early, early...)
	} else {
		c.watch.start()
	}
	return c, true
}

// put adds something to what flush sends.
func (c *connection) put(p []byte) { c.out.add(p, nil, nil) }

// flush sends what was put.
func (c *connection) flush(timeout time.Duration) error {
	defer c.out.free()
	c.out.close()
	return c.out.writeTo(&c.writer, timeout)
}

// end ends the response. If the end is a clean one, the connection is ready for the client's next request, as it was told.
func (c *connection) end(why Reason, timeout time.Duration) {
	early, gone := c.watch.end()
	if why != Broken {
		c.out.append(lastChunk)
		if c.flush(timeout) == nil && c.server != nil && !gone {
			handover.GiveBack(c.server, c.origin, append(c.early, early...), handover.Note(c.origin))
			return
		}
	}
	_ = c.Close()
}
