//go:build unix

package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// An eager writer writes what the kernel takes at once, and does not wait.
type eager struct {
	raw syscall.RawConn

	// The arguments and results of write, which is a field because a closure would be allocated for each call.
	write  func(fd uintptr) bool
	p      []byte
	pieces [][]byte // in place of p, if there are some
	n      int
	err    error
}

// newEager returns the eager writer for a connection, or nil if it is no socket.
func newEager(conn net.Conn) *eager {
	raw := Raw(conn)
	if raw == nil {
		return nil
	}
	e := &eager{raw: raw}
	e.write = func(fd uintptr) bool {
		for {
			if len(e.pieces) > 0 {
				e.n, e.err = writev(int(fd), e.pieces)
			} else {
				e.n, e.err = syscall.Write(int(fd), e.p)
			}
			if !errors.Is(e.err, syscall.EINTR) {
				return true
			}
		}
	}
	return e
}

// Write writes none of p, or some, or all. Deadlines do not matter to it.
func (e *eager) Write(p []byte) (int, error) {
	e.p = p
	err := e.raw.Write(e.write)
	e.p = nil
	return e.outcome(err)
}

// WritePieces is Write for pieces, of which there must be some, and none empty.
func (e *eager) WritePieces(pieces [][]byte) (int, error) {
	e.pieces = pieces
	err := e.raw.Write(e.write)
	e.pieces = nil
	return e.outcome(err)
}

// outcome returns what a write means that was made, unless there is an error because it was not.
func (e *eager) outcome(err error) (int, error) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, nil // somebody else has set one, and it is not for this write
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
