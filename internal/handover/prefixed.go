package handover

import (
	"io"
	"net"
	"sync/atomic"
	"time"
)

// A Prefixed is a connection of which something may have been read already.
type Prefixed struct {
	net.Conn

	note  int // see GiveBack
	early []byte
	used  atomic.Bool // early was read to its end
}

func prefixed(conn net.Conn, early []byte) *Prefixed {
	c := &Prefixed{Conn: conn, early: early}
	c.used.Store(len(early) == 0)
	return c
}

// Read implements [net.Conn].
func (c *Prefixed) Read(p []byte) (int, error) {
	if len(c.early) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.early)
	if c.early = c.early[n:]; len(c.early) == 0 {
		c.early = nil
		c.used.Store(true)
	}
	return n, nil
}

// readByte reads the first byte of a request, for a time if it is not 0. Empty lines may be before it (RFC 9112, 2.2).
func (c *Prefixed) readByte(limit time.Duration) error {
	if limit > 0 {
		if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
			return err
		}
	}
	first := []byte{'\n'}
	for first[0] == '\r' || first[0] == '\n' {
		if n, err := c.Conn.Read(first); n == 0 {
			return err
		}
	}
	c.early = first
	c.used.Store(false)
	return c.SetReadDeadline(time.Time{})
}

// ReadFrom lets files be sent by the kernel.
func (c *Prefixed) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite is how net/http says goodbye.
func (c *Prefixed) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// NetConn returns the connection that was accepted.
func (c *Prefixed) NetConn() net.Conn { return c.Conn }

// socket returns the socket, if there is nothing more to a connection now.
func (c *Prefixed) socket() net.Conn {
	if !c.used.Load() {
		return nil
	}
	return Socket(c.Conn)
}
