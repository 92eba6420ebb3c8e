//go:build unix

package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// A nonblocking writer writes what the kernel takes at once. It never waits.
type nonblocking struct {
	raw syscall.RawConn

	// write is a field because each call would allocate a closure. The other fields are its arguments and results.
	write  func(fd uintptr) bool
	p      []byte
	pieces [][]byte // are written in place of p, if there are any
	n      int
	err    error
}

// newNonblocking returns the nonblocking writer for a connection, or nil if the connection is not a socket.
func newNonblocking(conn net.Conn) *nonblocking {
	raw := Raw(conn)
	if raw == nil {
		return nil
	}
	e := &nonblocking{raw: raw}
	e.write = func(fd uintptr) bool {
		for {
			if len(e.pieces) > 0 {
				e.n, e.err = writev(int(fd), e.pieces)
			} else {
				e.n, e.err = write(fd, e.p)
			}
			if !errors.Is(e.err, syscall.EINTR) {
				return true
			}
		}
	}
	return e
}

// Write writes none, some, or all of p. It ignores deadlines.
func (e *nonblocking) Write(p []byte) (int, error) {
	e.p = p
	err := e.raw.Write(e.write)
	e.p = nil
	return e.outcome(err)
}

// WritePieces is Write for pieces. There must be at least one, and none may be empty.
func (e *nonblocking) WritePieces(pieces [][]byte) (int, error) {
	e.pieces = pieces
	err := e.raw.Write(e.write)
	e.pieces = nil
	return e.outcome(err)
}

// outcome returns the results of a write. If the write was not made, err says why.
func (e *nonblocking) outcome(err error) (int, error) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, nil // somebody else has set a deadline; it is not meant for this write
	case err != nil:
		return 0, err
	case errors.Is(e.err, syscall.EAGAIN):
		return 0, nil
	case e.err != nil:
		return 0, e.err
	case e.n == 0:
		return 0, io.ErrUnexpectedEOF
	}
	return e.n, nil
}
