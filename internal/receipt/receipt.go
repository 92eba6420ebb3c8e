// Package receipt reports how many of the bytes written to a connection have reached the peer's machine. A successful
// write says little about that: the kernel accepts megabytes that a stalled client never receives.
//
// Linux reports it for TCP, for Multipath TCP (from version 5.17 on) and for Unix sockets. Other systems do not report it
// in a way that this package knows. HTTP/3 has no such socket, and quic-go does not tell what of a stream was
// acknowledged.
package receipt

import (
	"net"
	"syscall"
)

// Of returns the connection's state as the operating system knows it. It returns nil if that is unknown: see the package's
// comment. It is unknown, too, if the connection is wrapped in something that may keep bytes back. TLS is no such thing.
func Of(conn net.Conn) *Conn {
	for {
		switch c := conn.(type) {
		case *net.TCPConn, *net.UnixConn:
			return of(c.(syscall.Conn))
		case interface{ NetConn() net.Conn }: // *tls.Conn
			conn = c.NetConn()
		default:
			return nil
		}
	}
}
