//go:build !race

// The race detector learns from package syscall that what a process reads happens after what it has written.

package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// Quick returns a connection that reads and writes the socket of conn with less effort: it does not tell Go's scheduler of the
// system calls. They cannot wait, because the socket is non-blocking. A process that was idle would be told at each first call after
// that, and would wake the thread that watches over long system calls (sysmon). That costs about as much as the call. If conn is not
// a socket, Quick returns it.
//
// At most one goroutine may read at a time, and one write.
func Quick(conn net.Conn) net.Conn {
	raw := Raw(conn)
	if raw == nil {
		return conn
	}
	q := &quick{Conn: conn, raw: raw}
	q.reads.transfer = func(fd uintptr) bool {
		q.reads.n, q.reads.err = call(syscall.SYS_READ, fd, q.reads.p[:min(len(q.reads.p), maxQuick)])
		return !errors.Is(q.reads.err, syscall.EAGAIN)
	}
	q.writes.transfer = func(fd uintptr) bool {
		for w := &q.writes; w.n < len(w.p); {
			n, err := call(syscall.SYS_WRITE, fd, w.p[w.n:min(len(w.p), w.n+maxQuick)])
			if w.err = err; err != nil {
				return !errors.Is(err, syscall.EAGAIN)
			}
			w.n += n
		}
		return true
	}
	return q
}

// maxQuick is how many bytes one quick call reads or writes at most. To copy them takes the kernel some ten microseconds, and
// meanwhile nothing else runs on this core.
const maxQuick = 64 << 10

// A quick connection is what Quick returns.
type quick struct {
	net.Conn
	raw           syscall.RawConn
	reads, writes transfer
}

// A transfer is a read or a write. Its function is kept because each call would allocate a closure. The other fields are the
// function's argument and results.
type transfer struct {
	transfer func(fd uintptr) bool
	p        []byte
	n        int
	err      error
}

// SyscallConn implements [syscall.Conn].
func (q *quick) SyscallConn() (syscall.RawConn, error) { return q.raw, nil }

// CloseWrite closes the socket for writing.
func (q *quick) CloseWrite() error {
	if half, ok := q.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Read implements [net.Conn].
func (q *quick) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	q.reads.p, q.reads.n, q.reads.err = p, 0, nil
	err := q.raw.Read(q.reads.transfer)
	q.reads.p = nil
	switch {
	case err != nil:
		return 0, err
	case q.reads.err != nil:
		return 0, os.NewSyscallError("read", q.reads.err)
	case q.reads.n == 0:
		return 0, io.EOF
	}
	return q.reads.n, nil
}

// Write implements [net.Conn].
func (q *quick) Write(p []byte) (int, error) {
	q.writes.p, q.writes.n, q.writes.err = p, 0, nil
	err := q.raw.Write(q.writes.transfer)
	q.writes.p = nil
	if err == nil && q.writes.err != nil {
		err = os.NewSyscallError("write", q.writes.err)
	}
	return q.writes.n, err
}

// write writes what the kernel takes at once.
func write(fd uintptr, p []byte) (int, error) {
	if len(p) > maxQuick {
		return syscall.Write(int(fd), p)
	}
	return call(syscall.SYS_WRITE, fd, p)
}

// call makes a system call that reads or writes p, which is not empty, and does not wait.
func call(number, fd uintptr, p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(number, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))) //nolint:gosec // what the kernel takes
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, syscall.EAGAIN
		default:
			return 0, errno
		}
	}
}
