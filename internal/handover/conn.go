package handover

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// What a server does with a connection.
const (
	// other: this is no HTTP/1.1 connection, as far as is known, or one no more.
	other int32 = iota
	// waits: no request has been read to the end of its header since the connection began or the last response ended.
	waits
	// serves: a handler is called, so what was read is its own once it has begun.
	serves
	// declines: a request was read, but the server shuts down and will close the connection.
	declines
)

const (
	// maxUnserved is how much is kept of a request that nobody serves.
	maxUnserved = 64 << 10
	// maxServed is how much is kept of one that is served.
	maxServed = 4 << 10
)

// A Conn is a connection that is passed on instead of closed, when its server has not begun to serve what was read from
// it and another server has taken the place of its own. Its methods are safe for concurrent use as those of [net.Conn].
type Conn struct {
	*Prefixed

	listener *Listener
	doing    atomic.Int32
	asked    bool        // Context was called
	begun    atomic.Bool // somebody serves what was read; true if that is not known

	mu      sync.Mutex
	passed  bool
	reading bool
	err     error // of the last Read

	// What was read since the last response, and whether it begins with a request: net/http reads ahead, so some of
	// the next request may have come with the last one.
	read     []byte
	total    int    // how much that was; read may have less of it
	ahead    []byte // what was read alone while a request is served, to notice the client's end; it is not in total
	answered bool   // it is all of before the last response
	clean    bool   // it begins with a request
	buffer   int    // the size of net/http's buffer
}

// wrap makes a connection one that is passed on. Those with TLS stay as they are, since net/http looks at their type,
// and they belong to the policies under which they were accepted. On HTTP/2 a server says in time that it goes.
func (l *Listener) wrap(conn *Prefixed) net.Conn {
	if isSecure(conn.Conn) {
		return conn.Conn
	}
	return &Conn{Prefixed: conn, listener: l, clean: true}
}

// isSecure reports whether a connection is one of TLS.
func isSecure(conn net.Conn) bool {
	_, ok := conn.(interface{ ConnectionState() tls.ConnectionState })
	return ok
}

// Changed must be called with what [http.Server.ConnState] is called with.
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
	default:
	}
}

// begin follows the begin of a request.
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
			c.read, c.clean = nil, false
		}
	}
}

// Context returns the context that is to be the connection's, as [http.Server.ConnContext] does. It must be called before
// the connection is read. The handlers of requests must ask for some value of it at their begin, as those of Caddy do:
// then the connection knows that a request was begun. For net/http looks once more whether the server shuts down after
// it has told ConnState of a request, and on a busy machine a server may be shut down in between.
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

// noteBegun notes that somebody serves what was read.
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

// beginRead reports whether the server may read.
func (c *Conn) beginRead(room int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.passed {
		return false
	}
	if c.answered {
		// There is room for all of net/http's buffer only when nothing else is in it.
		c.answered, c.clean = false, room+len(c.ahead) == c.buffer
		c.read, c.total = append(c.read[:0], c.ahead...), len(c.ahead)
		c.ahead = nil
	} else if bytes.IndexByte(c.read, '\n') < 0 { // so nothing of it has left the buffer
		c.buffer = max(c.buffer, len(c.read)+room)
	}
	c.reading = true
	return true
}

// endRead returns what Read is to return.
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
			go c.pass()
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
		c.noteBegun() // by net/http, if it cannot read the request
		return c.Conn.Write(p)
	case other:
		return c.Conn.Write(p)
	}
	if !c.release() {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// release lets the connection be one like any other: it was taken over, is one of HTTP/2, or its request cannot be read.
// It reports whether the connection was not passed on before.
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

// ReadFrom lets files be sent by the kernel. net/http calls it for the body of a response only.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) { return c.Prefixed.ReadFrom(r) }

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error { return c.set(c.Conn.SetDeadline, t) }

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.set(c.Conn.SetReadDeadline, t) }

// SetWriteDeadline implements [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.set(c.Conn.SetWriteDeadline, t) }

// set sets a deadline, unless the connection is somebody else's by now.
func (c *Conn) set(set func(time.Time) error, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.passed {
		return net.ErrClosed
	}
	return set(t)
}

// Close implements [net.Conn]. The connection is passed on if that is possible.
func (c *Conn) Close() error {
	if doing := c.doing.Load(); doing == serves && c.begun.Load() || doing == other || !c.listener.isOver() {
		return c.Conn.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.passed {
		return nil
	}
	if c.listener.group.heir() == nil || !c.isUnserved() {
		return c.Conn.Close()
	}
	c.passed = true
	if c.reading {
		return c.Conn.SetReadDeadline(time.Unix(1, 0)) // and endRead passes it on
	}
	go c.pass()
	return nil
}

// isUnserved reports whether read is just what another server is to read again. The lock is held.
func (c *Conn) isUnserved() bool {
	switch doing := c.doing.Load(); {
	case c.err != nil:
		return false
	case doing == waits && c.answered:
		alone := c.total == requestLength(c.read)
		c.read, c.ahead = c.ahead, nil
		return alone
	case doing == waits, !c.answered:
		return c.clean
	default:
		return false
	}
}

// requestLength returns how long a request is, by its header, or -1 if that does not tell.
func requestLength(begin []byte) int {
	source := bytes.NewReader(begin)
	buffered := bufio.NewReader(source)
	r, err := http.ReadRequest(buffered)
	if err != nil || r.ContentLength < 0 {
		return -1
	}
	return len(begin) - source.Len() - buffered.Buffered() + int(r.ContentLength)
}

// pass passes the connection on.
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
