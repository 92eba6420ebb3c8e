package receipt

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Conn reports the state of a connection. Only one goroutine may use it at a time.
type Conn struct {
	raw  syscall.RawConn
	kind kind

	// look and count are fields because each call would allocate a closure. The fields below are their results.
	look   func(fd uintptr)
	count  func(fd uintptr)
	acked  uint64
	queued int
	err    error

	// For sockets other than plain TCP, acked adds up what is seen to be acknowledged: see advance.
	counter kind   // whose counter it was
	last    uint64 // what the counter was
}

// A kind is a kind of socket. Each kind tells something else.
type kind int

const (
	tcp kind = iota
	multipathTCP
	fallenBack // made for Multipath TCP, but one of the two sides, or something in between, does not speak it
	unixSocket
)

func of(conn syscall.Conn) *Conn {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	c := &Conn{raw: raw}
	c.look = func(fd uintptr) { c.err = c.state(int(fd)) }
	if err := raw.Control(func(fd uintptr) { c.kind, c.err = kindOf(int(fd)) }); err != nil || c.err != nil {
		return nil
	}
	if c.kind == tcp {
		return c // every Linux that Go runs on reports the state
	}
	if _, _, err := c.State(); err != nil {
		return nil
	}
	return c
}

func kindOf(fd int) (kind, error) {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	switch {
	case err != nil:
		return 0, err
	case protocol == unix.IPPROTO_TCP:
		return tcp, nil
	case protocol == unix.IPPROTO_MPTCP:
		return multipathTCP, nil
	}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err == nil && domain != unix.AF_UNIX {
		err = unix.EAFNOSUPPORT
	}
	return unixSocket, err
}

// State returns how many bytes the peer has acknowledged, counted from some moment, and how many written bytes it has not
// acknowledged yet. acked is known only while something is queued. If nothing is queued, State costs one system call over
// TCP. acked may be too low for a while, never too high. Over a Unix socket, the peer acknowledges what it reads, and both
// numbers include what the kernel adds to the bytes.
func (c *Conn) State() (acked uint64, queued int, err error) {
	if err := c.raw.Control(c.look); err != nil {
		return 0, 0, err
	}
	return c.acked, c.queued, c.err
}

// Counts reports whether Written is known. It is not for a Unix socket. Nor is it if Multipath TCP was given up: then the
// kernel counts some bytes twice while they are on their way.
func (c *Conn) Counts() bool { return c.kind == tcp || c.kind == multipathTCP }

// Written returns how many bytes the kernel has accepted, counted from some moment. It fails if that is not known.
func (c *Conn) Written() (uint64, error) {
	if c.count == nil { // few readers need it
		c.count = func(fd uintptr) { c.err = c.total(int(fd)) }
	}
	if err := c.raw.Control(c.count); err != nil {
		return 0, err
	}
	return c.acked + uint64(c.queued), c.err //nolint:gosec // not negative
}

// state sets c.acked and c.queued.
func (c *Conn) state(fd int) error {
	switch c.kind {
	case multipathTCP:
		return c.multipathState(fd)
	case fallenBack:
		return c.fallenBackState(fd)
	case unixSocket:
		return c.unixState(fd)
	case tcp:
	}
	var err error
	c.acked, c.queued, err = tcpState(fd, false)
	return err
}

// total sets c.acked and c.queued so that their sum is what was written.
func (c *Conn) total(fd int) error {
	if c.kind == tcp {
		var err error
		c.acked, c.queued, err = tcpState(fd, true)
		return err
	}
	if c.kind == multipathTCP {
		if err := c.multipathState(fd); err != nil || c.kind == multipathTCP {
			return err
		}
	}
	return unix.EOPNOTSUPP
}

// tcpState returns the state of a TCP socket. If nothing is queued, it looks for the acknowledged bytes only if needed.
func tcpState(fd int, needed bool) (acked uint64, queued int, err error) {
	// We read the two numbers one after the other. If an acknowledgement comes in between, their sum is not the number of
	// bytes that were written, so we read them again. After some tries we take the larger sum, which claims too little.
	for range 4 {
		queued, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		if err != nil || queued == 0 && !needed {
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

// unixState sets the state of a Unix socket. What is queued is the memory of what the peer has not read, which is never
// less than its bytes. That tells of no byte how it fares, but if the memory shrinks, the peer has read.
func (c *Conn) unixState(fd int) error {
	queued, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return err
	}
	// When the peer closes its socket, the kernel first marks ours, and then frees what the peer has not read. So if there
	// is no mark now, the peer has read what was not queued before.
	poll := []unix.PollFd{{Fd: int32(fd)}} //nolint:gosec // it is small
	for _, err = unix.Poll(poll, 0); errors.Is(err, unix.EINTR); {
		_, err = unix.Poll(poll, 0)
	}
	if err != nil {
		return err
	}
	if poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
		return unix.ECONNRESET
	}
	if queued < c.queued {
		c.acked += uint64(c.queued - queued) //nolint:gosec // not negative
	}
	c.queued = queued
	return nil
}

// advance adds to c.acked what a counter of acknowledged bytes has advanced since the last call. The first call, and the
// first call after another counter was used, add nothing.
func (c *Conn) advance(counter uint64) {
	if c.counter == c.kind {
		c.acked += counter - c.last
	}
	c.counter, c.last = c.kind, counter
}
