package socket

import (
	"net"
	"syscall"
)

// Raw returns the handle for system calls on a connection, or nil if the connection is not a socket.
func Raw(conn net.Conn) syscall.RawConn {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
