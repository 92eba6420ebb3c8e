package handover

import (
	"bytes"
	"errors"
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

// maxHead is how much of a request is read here at most, in bytes.
const maxHead = 4 << 10

// readHead reads a request up to the end of its header, if that is not large. The first byte and the rest may each take
// a time, if that is not 0. Of a client that goes in the middle of it, the server is to notice.
func (c *Prefixed) readHead(idle, header time.Duration) error {
	if len(c.early) == 0 {
		if err := c.readByte(idle); err != nil {
			return err
		}
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
		if err != nil {
			return err
		}
	}
	return c.SetReadDeadline(time.Time{})
}

// readByte reads the first byte of a request. Empty lines may be before it (RFC 9112, 2.2).
func (c *Prefixed) readByte(limit time.Duration) error {
	if err := c.limitRead(limit); err != nil {
		return err
	}
	first := []byte{'\n'}
	for first[0] == '\r' || first[0] == '\n' {
		if n, err := c.Conn.Read(first); n == 0 {
			return err
		}
	}
	c.early = first
	c.used.Store(false)
	return nil
}

func (c *Prefixed) limitRead(limit time.Duration) error {
	if limit <= 0 {
		return c.SetReadDeadline(time.Time{})
	}
	return c.SetReadDeadline(time.Now().Add(limit))
}

// hasHead reports whether the header of a request is there to its end, as net/http takes it.
func hasHead(p []byte) bool {
	return bytes.Contains(p, []byte("\n\r\n")) || bytes.Contains(p, []byte("\n\n"))
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
