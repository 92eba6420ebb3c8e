package handover

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// What a server does with a connection.
const (
	// other: as far as we know, this is not an HTTP/1.1 connection, or no longer one.
	other int32 = iota
	// waits: since the connection began or the last response ended, the server has not read a whole request header.
	waits
	// serves: the server calls a handler. Once the handler has begun, what was read belongs to it.
	serves
	// declines: the server has read a request, but it is shutting down and will close the connection.
	declines
)

const (
	// maxUnserved is how many bytes a Conn keeps of a request that nobody serves.
	maxUnserved = 64 << 10
	// maxServed is how many bytes a Conn keeps of a request that is being served.
	maxServed = 4 << 10
	// maxUntold is how long a Conn whose request is being served waits at most, once it is closed, to learn from Changed
	// whether the request has ended.
	maxUntold = time.Second
)

// A Conn is a connection that can be passed on instead of closed. Close passes it on if another server has replaced its
// own, and its own has not begun to serve what it read from the connection. The methods of a Conn are safe for
// concurrent use, like those of [net.Conn].
type Conn struct {
	*Prefixed

	listener *Listener
	doing    atomic.Int32
	asked    bool        // Context was called
	begun    atomic.Bool // somebody serves what was read, or we cannot know

	mu      sync.Mutex
	passed  bool
	closing bool // Close has left it to Changed to close the connection
	reading bool
	err     error // from the last Read

	// The fields below describe what was read since the last response. These bytes need not begin with a request: net/http
	// reads ahead, so part of the next request may have come together with the last one.
	read     []byte
	total    int     // how many bytes were read; read may hold fewer
	ahead    []byte  // bytes that net/http read one by one while it served, to notice the client's end; not in total
	answered bool    // all of read came before the last response
	clean    bool    // read begins with a request
	extent   *extent // of the request that read begins with; nil if read tells it
	buffer   int     // the size of net/http's buffer
}

// wrap returns a connection that can be passed on. It leaves TLS connections as they are: net/http checks their type,
// and they belong to the TLS policies that accepted them. HTTP/2 servers warn their clients in time before they go.
func (l *Listener) wrap(conn *Prefixed) net.Conn {
	if isSecure(conn.Conn) {
		return conn.Conn
	}
	return &Conn{Prefixed: conn, listener: l, clean: true}
}

// isSecure reports whether a connection uses TLS.
func isSecure(conn net.Conn) bool {
	_, ok := conn.(interface{ ConnectionState() tls.ConnectionState })
	return ok
}

// Changed follows the connection's state. [http.Server.ConnState] must call it with each state that it gets.
func (c *Conn) Changed(state http.ConnState) {
	switch state {
	case http.StateNew:
		c.doing.CompareAndSwap(other, waits)
	case http.StateActive:
		c.begin()
	case http.StateIdle:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.answered = true
		c.doing.CompareAndSwap(serves, waits)
	case http.StateHijacked:
		c.release()
	case http.StateClosed:
		c.closeServed()
	default:
	}
}

// begin records that a request has begun.
func (c *Conn) begin() {
	over := c.listener.isOver()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.doing.Load() != waits:
	case over:
		c.doing.Store(declines)
	default:
		c.begun.Store(!c.asked)
		c.doing.Store(serves)
		if len(c.read) > maxServed {
			if c.clean {
				c.extent = extentOf(c.read)
			}
			c.read, c.clean = nil, false
		}
	}
}

// Context returns the connection's context, for [http.Server.ConnContext]. Call it before anything reads the
// connection. When a handler begins, it must look up some value in this context, as Caddy's handlers do. The lookup
// shows the connection that a handler has begun. ConnState cannot show that: after net/http has called it for a
// request, it checks once more whether the server is shutting down. On a busy machine, the shutdown may begin between
// the two.
func (c *Conn) Context(parent context.Context) context.Context {
	c.asked = true
	return connContext{parent, c}
}

type connContext struct {
	context.Context

	conn *Conn
}

// Value implements [context.Context].
func (c connContext) Value(key any) any {
	c.conn.noteBegun()
	return c.Context.Value(key)
}

// noteBegun records that somebody serves what was read.
func (c *Conn) noteBegun() {
	if !c.begun.Load() {
		c.begun.Store(true)
	}
}

// Read implements [net.Conn].
func (c *Conn) Read(p []byte) (int, error) {
	switch c.doing.Load() {
	case serves:
		n, err := c.Prefixed.Read(p)
		if n == 1 && len(p) == 1 {
			c.ahead = append(c.ahead, p[0])
		} else {
			c.follow(p[:n])
			c.total += n
		}
		return n, err
	case other:
		return c.Prefixed.Read(p)
	}
	if !c.beginRead(len(p)) {
		return 0, net.ErrClosed
	}
	n, err := c.Prefixed.Read(p)
	return c.endRead(p[:n], err)
}

// follow follows the request that is being served. Only a request in chunks needs that.
func (c *Conn) follow(p []byte) {
	if c.extent == nil && c.clean && c.total == len(c.read) && maybeChunked(c.read) {
		c.extent = extentOf(c.read)
	}
	if c.extent != nil {
		c.extent.add(p)
	}
}

// beginRead reports whether the server may read.
func (c *Conn) beginRead(room int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.passed {
		return false
	}
	if c.answered {
		// net/http offers its whole buffer only when the buffer is empty.
		c.answered, c.clean = false, room+len(c.ahead) == c.buffer
		c.read, c.total = append(c.read[:0], c.ahead...), len(c.ahead)
		c.ahead, c.extent = nil, nil
	} else if bytes.IndexByte(c.read, '\n') < 0 { // no line is complete, so all of read is still in the buffer
		c.buffer = max(c.buffer, len(c.read)+room)
	}
	c.reading = true
	return true
}

// endRead records what was read, and returns the results of Read.
func (c *Conn) endRead(p []byte, err error) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading = false
	c.total += len(p)
	if len(c.read)+len(p) > maxUnserved {
		c.clean, c.read = false, nil
	}
	if c.clean {
		c.read = append(c.read, p...)
	}
	if c.passed {
		if c.clean {
			c.goPass()
		} else {
			_ = c.Conn.Close()
		}
		return 0, net.ErrClosed
	}
	c.err = err
	return len(p), err
}

// Write implements [net.Conn].
func (c *Conn) Write(p []byte) (int, error) {
	switch c.doing.Load() {
	case serves:
		c.noteBegun() // net/http itself answers a request that it cannot read
		return c.Conn.Write(p)
	case other:
		return c.Conn.Write(p)
	}
	if !c.release() {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// release makes the connection an ordinary one, because it was hijacked, speaks HTTP/2, or carries a request that
// cannot be read. It reports false if the connection was already passed on.
func (c *Conn) release() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.passed {
		return false
	}
	c.doing.Store(other)
	c.read = nil
	return true
}

// ReadFrom lets the kernel send files. net/http calls it only for the body of a response.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) { return c.Prefixed.ReadFrom(r) }

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error { return c.set(c.Conn.SetDeadline, t) }

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.set(c.Conn.SetReadDeadline, t) }

// SetWriteDeadline implements [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.set(c.Conn.SetWriteDeadline, t) }

// set sets a deadline, unless the connection was already passed on or closed.
func (c *Conn) set(set func(time.Time) error, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.passed || c.closing {
		return net.ErrClosed
	}
	return set(t)
}

// Close implements [net.Conn]. It passes the connection on if it can.
func (c *Conn) Close() error {
	if !c.isOver() {
		return c.Conn.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.passed:
		return nil
	case c.listener.group.successor() == nil:
		return c.Conn.Close()
	case c.isServed() && !c.closing:
		// A server that shuts down closes idle connections. net/http takes a connection for idle a moment before it tells
		// Changed. Then it closes the connection once more. Otherwise Changed learns that the connection is closed.
		c.closing = true
		time.AfterFunc(maxUntold, c.closeServed)
		return c.Conn.SetDeadline(time.Unix(1, 0))
	case !c.isUnserved():
		return c.Conn.Close()
	}
	c.passed = true
	if c.reading {
		return c.Conn.SetReadDeadline(time.Unix(1, 0)) // endRead then passes it on
	}
	c.goPass()
	return nil
}

// isOver reports whether the connection may be passed on, because its server is shutting down.
func (c *Conn) isOver() bool {
	switch {
	case c.doing.Load() == other:
		return false
	case c.isServed():
		return c.listener.isClosed()
	}
	return c.listener.isOver()
}

// isServed reports whether a request is being served, as far as Changed was told.
func (c *Conn) isServed() bool { return c.doing.Load() == serves && c.begun.Load() }

// closeServed closes the connection if Close did not because of the request that is being served.
func (c *Conn) closeServed() {
	defer guard.Recover(guard.Connection)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing && !c.passed {
		_ = c.Conn.Close()
	}
}

// isUnserved reports whether read is exactly what another server must read again. The caller holds the lock.
func (c *Conn) isUnserved() bool {
	switch doing := c.doing.Load(); {
	case c.err != nil:
		return false
	case doing == waits && c.answered:
		if c.extent == nil {
			c.extent = extentOf(c.read)
		}
		alone := c.extent != nil && c.extent.isAll(c.total)
		c.read, c.ahead = c.ahead, nil
		return alone
	case doing == waits, !c.answered:
		return c.clean
	default:
		return false
	}
}

// goPass calls pass in a goroutine.
func (c *Conn) goPass() {
	guard.Go(guard.Connection, c.pass, func() { _ = c.Conn.Close() })
}

// pass passes the connection on. If that fails, it closes the connection.
func (c *Conn) pass() {
	if err := c.Conn.SetDeadline(time.Time{}); err != nil {
		_ = c.Conn.Close()
		return
	}
	early := append(c.read, c.early...)
	early = bytes.TrimLeft(early, "\r\n") // some clients send an empty line after a body (RFC 9112, 2.2)
	next := prefixed(c.Conn, early)
	next.note = c.note
	c.listener.group.give(next, c.listener.settings)
}
