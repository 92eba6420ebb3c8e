package transport

import (
	"bytes"
	"net"
	"net/http"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/handover"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// A connection carries the rest of an HTTP/1.1 response after it was hijacked from net/http. The header was already
// sent. The handler can then return, which frees its deep stack and the buffers of net/http. Those are most of the
// memory of a waiting reader (docs/performance.md). Each write is one write to the socket, without the deadlines that
// are set on the way through Caddy.
type connection struct {
	net.Conn

	origin net.Conn     // the connection that the server accepted
	server *http.Server // gets the connection back for the next request; nil if this response is the last
	writer socket.Writer
	out    chunks // for flush

	watch clientWatch
	early []byte // what the client had sent of its next request before the watch
}

// takeOver hijacks the connection of a response, after the response's header was sent. The response's body must be
// chunked. gone is called when the client has gone. takeOver reports false if the connection cannot be hijacked.
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
	taken := false
	defer func() {
		if !taken { // a panic: net/http does not close a hijacked connection
			_ = conn.Close()
		}
	}()
	bare := handover.Socket(conn)
	c := &connection{Conn: bare, origin: conn, server: server, writer: socket.NewWriter(bare)}
	c.watch.init(bare, gone)
	if n := buffered.Reader.Buffered(); n > 0 {
		early, _ := buffered.Peek(n) // cannot fail: the bytes are in the buffer
		c.early = append(c.early, early...)
	} else {
		c.watch.start()
	}
	taken = true
	return c, true
}

// put adds p to what flush sends.
func (c *connection) put(p []byte) { c.out.add(p, nil, nil) }

// flush sends what was put.
func (c *connection) flush(timeout time.Duration) error {
	defer c.out.free()
	c.out.close()
	return c.out.writeTo(&c.writer, timeout)
}

// end ends the response. After a clean end, the connection goes back to the server for the client's next request,
// unless the response's header said that it closes.
func (c *connection) end(why Reason, timeout time.Duration) {
	early, gone := c.watch.end()
	if why != Broken {
		c.out.append(lastChunk)
		if c.flush(timeout) == nil && c.server != nil && !gone {
			early = bytes.TrimLeft(append(c.early, early...), "\r\n")
			handover.GiveBack(c.server, c.origin, early, handover.Note(c.origin))
			return
		}
	}
	_ = c.Close()
}
