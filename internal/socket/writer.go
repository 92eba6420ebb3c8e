// Package socket writes to the sockets of connections that were taken over from net/http.
package socket

import (
	"net"
	"sync/atomic"
	"time"
)

// maxPiece is how many bytes the peer must take within a timeout. So one that is slow but takes something is not given up
// over a large write.
const maxPiece = 64 << 10

// A Writer writes to a socket. It is for one goroutine at a time.
type Writer struct {
	conn  net.Conn
	eager *eager // may be nil

	written atomic.Uint64 // bytes
}

// NewWriter returns the writer for a socket.
func NewWriter(conn net.Conn) Writer { return Writer{conn: conn, eager: newEager(conn)} }

// Written returns how many bytes were written so far. It may be called at any time.
func (w *Writer) Written() uint64 { return w.written.Load() }

// Write writes p. The kernel nearly always takes it at once. If not, the peer must take each piece of the rest within the
// timeout. So a deadline is rarely needed, and never left. One that others have set is overwritten, as Caddy's handler
// timeouts leaves one when it returns.
func (w *Writer) Write(p []byte, timeout time.Duration) error {
	if w.eager != nil && len(p) > 0 {
		n, err := w.eager.Write(p)
		w.written.Add(uint64(n)) //nolint:gosec // not negative
		if err != nil {
			return err
		}
		p = p[n:]
	}
	if len(p) == 0 {
		return nil
	}
	for len(p) > 0 {
		if err := w.conn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		n, err := w.conn.Write(p[:min(maxPiece, len(p))])
		w.written.Add(uint64(n)) //nolint:gosec // not negative
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return w.conn.SetWriteDeadline(time.Time{})
}
