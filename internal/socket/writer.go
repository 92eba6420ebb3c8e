// Package socket writes to the sockets of connections that were taken over from net/http, and knows how far the peers of
// others are.
package socket

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// maxPiece is how many bytes are written at once where the system does not tell what the peer takes. It must take them within
// a timeout, so one that is slow is not given up over a large write.
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

// Write writes p. The kernel nearly always takes it at once. If not, the peer must take something of the rest, again and
// again, within the timeout. So a deadline is rarely needed, and never left. One that others have set is overwritten, as
// Caddy's handler timeouts leaves one when it returns.
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
		before := w.queued()
		n, err := w.conn.Write(p[:min(maxPiece, len(p))])
		w.written.Add(uint64(n)) //nolint:gosec // not negative
		p = p[n:]
		// The kernel takes nothing until much of its buffer is free, so the peer may take something all the same.
		if errors.Is(err, os.ErrDeadlineExceeded) && (n > 0 || w.queued() < before) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return w.conn.SetWriteDeadline(time.Time{})
}

// queued returns how much the peer has not taken, or 0 if that is not known.
func (w *Writer) queued() int {
	if w.eager == nil {
		return 0
	}
	return look(w.eager.raw).queued
}
