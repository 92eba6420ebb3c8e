package handover

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// A Prefixed is a connection from which something may already have been read.
type Prefixed struct {
	net.Conn

	note    any
	early   []byte
	used    atomic.Bool // early was read to the end
	stalled bool        // the rest of the header did not come in time
}

func prefixed(conn net.Conn, early []byte) *Prefixed {
	c := &Prefixed{Conn: conn, early: early}
	c.used.Store(len(early) == 0)
	return c
}

// Read implements [net.Conn].
func (c *Prefixed) Read(p []byte) (int, error) {
	if len(c.early) == 0 {
		if c.stalled {
			return 0, os.ErrDeadlineExceeded
		}
		return c.Conn.Read(p)
	}
	n := copy(p, c.early)
	if c.early = c.early[n:]; len(c.early) == 0 {
		c.early = nil
		c.used.Store(true)
	}
	return n, nil
}

const (
	// maxHead is how many bytes of a request are read here at most.
	maxHead = 4 << 10
	// minBegin is how many bytes must have come for net/http to see the beginning of a request on a connection that had
	// others.
	minBegin = 4
)

// readHead reads a request up to the end of its header, or less if the header is larger than maxHead. idle limits the
// time for the beginning of the request, and header limits the time for the rest; 0 means no limit. It is not an error if
// the client goes or stalls in the middle of the header: the server will notice that, and may have a reply to it.
func (c *Prefixed) readHead(idle, header time.Duration) error {
	if err := c.readBegin(idle); err != nil {
		return err
	}
	if !hasHead(c.early) {
		if err := c.limitRead(header); err != nil {
			return err
		}
		c.early = append(make([]byte, 0, max(maxHead, len(c.early))), c.early...)
	}
	for !hasHead(c.early) && len(c.early) < cap(c.early) {
		n, err := c.Conn.Read(c.early[len(c.early):cap(c.early)])
		c.early = c.early[:len(c.early)+n]
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.stalled = true
			break
		}
		if err != nil {
			return err
		}
	}
	return c.SetReadDeadline(time.Time{})
}

// readBegin reads the first bytes of a request. It skips empty lines before the request (RFC 9112, 2.2), but leaves those
// that [GiveBack] got to net/http, which refuses them.
func (c *Prefixed) readBegin(limit time.Duration) error {
	if len(c.early) >= minBegin || len(c.early) > 0 && (c.early[0] == '\r' || c.early[0] == '\n') {
		return nil
	}
	if err := c.limitRead(limit); err != nil {
		return err
	}
	begin := append(make([]byte, 0, minBegin), c.early...)
	for len(begin) < minBegin {
		n, err := c.Conn.Read(begin[len(begin):minBegin])
		if n == 0 {
			return err
		}
		begin = append(begin[:0], bytes.TrimLeft(begin[:len(begin)+n], "\r\n")...)
	}
	c.early = begin
	c.used.Store(false)
	return nil
}

func (c *Prefixed) limitRead(limit time.Duration) error {
	if limit <= 0 {
		return c.SetReadDeadline(time.Time{})
	}
	return c.SetReadDeadline(time.Now().Add(limit))
}

// hasHead reports whether p has the end of a request's header, in each form that net/http accepts.
func hasHead(p []byte) bool {
	return bytes.Contains(p, []byte("\n\r\n")) || bytes.Contains(p, []byte("\n\n"))
}

// ReadFrom lets the kernel send files.
func (c *Prefixed) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite closes the write side, if the connection can do that. net/http calls it before it closes a connection.
func (c *Prefixed) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Note returns the note that the connection got from [GiveBack], or nil.
func (c *Prefixed) Note() any { return c.note }

// NetConn returns the accepted connection.
func (c *Prefixed) NetConn() net.Conn { return c.Conn }

// socket returns the socket. It returns nil if the connection is still more than a socket.
func (c *Prefixed) socket() net.Conn {
	if !c.used.Load() {
		return nil
	}
	return Socket(c.Conn)
}
