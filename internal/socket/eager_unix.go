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
	write func(fd uintptr) bool
	p     []byte
	n     int
	err   error
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
			e.n, e.err = syscall.Write(int(fd), e.p)
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
	return outcome(e.n, e.err, err)
}

// WritePieces is Write for pieces that together are not empty.
func (e *eager) WritePieces(pieces [][]byte) (n int, err error) {
	var failed error
	err = e.raw.Write(func(fd uintptr) bool {
		for {
			n, failed = writev(int(fd), pieces)
			if !errors.Is(failed, syscall.EINTR) {
				return true
			}
		}
	})
	return outcome(n, failed, err)
}

// outcome returns what a write means that returned n and failed, if nothing else was in its way.
func outcome(n int, failed, other error) (int, error) {
	switch {
	case errors.Is(other, os.ErrDeadlineExceeded):
		return 0, nil // somebody else has set one, and it is not for this write
	case other != nil:
		return 0, other
	case errors.Is(failed, syscall.EAGAIN):
		return 0, nil
	case failed != nil:
		return 0, failed
	case n == 0:
		return 0, io.ErrUnexpectedEOF
	}
	return n, nil
}
