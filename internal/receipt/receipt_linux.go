package receipt

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Conn reports the state of a TCP connection. Only one goroutine may use it at a time.
type Conn struct {
	raw syscall.RawConn

	// look is a field because each call would allocate a closure. The other fields are its results.
	look   func(fd uintptr)
	acked  uint64
	queued int
	err    error
}

func of(conn *net.TCPConn) *Conn {
	// With Multipath TCP, the queue belongs to the connection and the counter to a subflow, so they do not add up.
	if multipath, err := conn.MultipathTCP(); err != nil || multipath {
		return nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	c := &Conn{raw: raw}
	c.look = func(fd uintptr) { c.acked, c.queued, c.err = state(int(fd)) }
	return c
}

// State returns how many bytes the peer has acknowledged since the connection began, and how many written bytes it has
// not acknowledged yet. acked is known only while something is queued. If nothing is queued, State costs one system
// call.
func (c *Conn) State() (acked uint64, queued int, err error) {
	if err := c.raw.Control(c.look); err != nil {
		return 0, 0, err
	}
	return c.acked, c.queued, c.err
}

func state(fd int) (acked uint64, queued int, err error) {
	// We read the two numbers one after the other. If an acknowledgement comes in between, their sum is not the number of
	// bytes that were written, so we read them again. After some tries we take the larger sum, which claims too little.
	for range 4 {
		queued, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		if err != nil || queued == 0 {
			return 0, queued, err
		}
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err != nil {
			return 0, 0, err
		}
		acked = info.Bytes_acked
		again, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		if err != nil || again == queued {
			return acked, queued, err
		}
	}
	return acked, queued, nil
}
