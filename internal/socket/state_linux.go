package socket

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// look returns the state of a socket.
func look(raw syscall.RawConn) (s state) {
	err := raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}} //nolint:gosec // it is small
		n, err := unix.Poll(poll, 0)
		for errors.Is(err, unix.EINTR) { // Go's own signals interrupt it
			n, err = unix.Poll(poll, 0)
		}
		s.room = n > 0 || err != nil
		s.queued, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	})
	s.room = s.room || err != nil
	return s
}

func limitUnsent(raw syscall.RawConn) {
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent) // fails on a Unix socket
	})
}
