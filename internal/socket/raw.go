package socket

import (
	"net"
	"syscall"
)

// Raw returns what system calls for a connection are made with, or nil if it is no socket.
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
