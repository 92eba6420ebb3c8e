package receipt

import (
	"errors"
	"unsafe" // package unix has no call for MPTCP_INFO

	"golang.org/x/sys/unix"
)

// multipathState sets the state of a Multipath TCP socket. Its bytes may take several ways, so what TCP_INFO reports of one
// of them means nothing. Both sides number the bytes of the whole connection: write_seq is the number of the next byte to
// write, and snd_una that of the first byte that the peer has not acknowledged.
func (c *Conn) multipathState(fd int) error {
	info, err := multipathInfo(fd)
	if isNotMultipath(err) {
		c.kind = fallenBack
		return c.fallenBackState(fd)
	}
	if err != nil {
		return err
	}
	c.advance(info.sndUna)
	c.queued = int(max(0, int64(info.writeSeq-info.sndUna))) //nolint:gosec // sequence numbers wrap around
	return nil
}

// fallenBackState sets the state of a socket for Multipath TCP whose connection is plain TCP. The kernel then answers as
// for the TCP socket, with one exception: once that is closed, nothing counts as queued.
func (c *Conn) fallenBackState(fd int) error {
	acked, queued, err := tcpState(fd, true)
	if err != nil {
		return err
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	switch {
	case err != nil:
		return err
	case info.State == unix.BPF_TCP_CLOSE:
		return unix.ECONNRESET
	}
	c.advance(acked)
	c.queued = queued
	return nil
}

// A mptcpInfo is the beginning of the kernel's struct mptcp_info (linux/mptcp.h), whose fields never move.
type mptcpInfo struct {
	_                uint64 // counts of subflows
	flags, token     uint32
	writeSeq, sndUna uint64
}

// multipathInfo returns what the kernel knows of a Multipath TCP connection (Linux 5.16).
func multipathInfo(fd int) (mptcpInfo, error) {
	const option = 1 // MPTCP_INFO
	var info mptcpInfo
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_MPTCP, option,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0) //nolint:gosec // as package unix does it
	switch {
	case errno != 0:
		return info, errno
	case uintptr(size) < unsafe.Sizeof(info):
		return info, unix.EOPNOTSUPP
	}
	return info, nil
}

// isNotMultipath reports whether multipathInfo failed because the connection is plain TCP: over IPv4, or over IPv6.
func isNotMultipath(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOPROTOOPT)
}
