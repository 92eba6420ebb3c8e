package receipt

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Conn is a TCP connection that can be asked. It is for one goroutine at a time.
type Conn struct {
	raw syscall.RawConn

	// The result of look, which is a field because a closure would be allocated for each call.
	look   func(fd uintptr)
	acked  uint64
	queued int
	err    error
}

func of(conn *net.TCPConn) *Conn {
	// With Multipath TCP the queue is the connection's and the counter is a subflow's: they do not add up.
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

// State returns how many bytes the peer has acknowledged since the connection began, and how many that were
// written it has not. Acked is only known while something is queued. It costs a system call if nothing is.
func (c *Conn) State() (acked uint64, queued int, err error) {
	if err := c.raw.Control(c.look); err != nil {
		return 0, 0, err
	}
	return c.acked, c.queued, c.err
}

func state(fd int) (acked uint64, queued int, err error) {
	// The two numbers are read one after the other. If an acknowledgement comes in between, their sum is not what
	// was written, so they are read again. After some tries the larger sum is taken, which claims too little.
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
