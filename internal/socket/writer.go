// Package socket writes to the sockets of connections that were hijacked from net/http. For other connections, it
// reports how much their peers have taken.
package socket

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// maxPiece is how many bytes are written at once where the system does not say what the peer has taken. The peer must
// take a piece within the timeout, so a large write does not end a slow connection.
const maxPiece = 64 << 10

// A Writer writes to a socket. Only one goroutine may use it at a time, except for Written.
type Writer struct {
	conn        net.Conn
	nonblocking *nonblocking // may be nil

	written atomic.Uint64 // bytes
}

// NewWriter returns the writer for a socket.
func NewWriter(conn net.Conn) Writer { return Writer{conn: conn, nonblocking: newNonblocking(conn)} }

// Written returns how many bytes were written so far. Any goroutine may call it at any time.
func (w *Writer) Written() uint64 { return w.written.Load() }

// Write writes p. The kernel nearly always takes p at once. If it does not, the peer must take part of the rest within
// each timeout. So Write rarely needs a deadline, and it never leaves one. It overwrites a deadline that others have
// set: Caddy's timeouts handler leaves one when it returns.
func (w *Writer) Write(p []byte, timeout time.Duration) error {
	n, err := w.TryWrite(p)
	if err != nil || n == len(p) {
		return err
	}
	p = p[n:]
	for len(p) > 0 {
		if err := w.conn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		before := w.queued()
		n, err := w.conn.Write(p[:min(maxPiece, len(p))])
		w.written.Add(uint64(n)) //nolint:gosec // not negative
		p = p[n:]
		// The kernel accepts nothing until much of its buffer is free, so the peer may have taken something all the same.
		if errors.Is(err, os.ErrDeadlineExceeded) && (n > 0 || w.queued() < before) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return w.conn.SetWriteDeadline(time.Time{})
}

// TryWrite writes what the kernel takes of p at once: none, some or all of it. It never waits.
func (w *Writer) TryWrite(p []byte) (int, error) {
	if w.nonblocking == nil || len(p) == 0 {
		return 0, nil
	}
	n, err := w.nonblocking.Write(p)
	w.written.Add(uint64(n)) //nolint:gosec // not negative
	return n, err
}

// queued returns how many bytes the peer has not taken, or 0 if that is unknown.
func (w *Writer) queued() int {
	if w.nonblocking == nil {
		return 0
	}
	return look(w.nonblocking.raw).queued
}
