// Package receipt reports how many of the bytes written to a connection have reached the peer's machine. A successful
// write says little about that: the kernel accepts megabytes that a stalled client never receives.
package receipt

import "net"

// Of returns the connection's state as the operating system knows it. It returns nil if the system does not report
// that: on systems other than Linux, for HTTP/3, and for connections that are wrapped in something unknown.
func Of(conn net.Conn) *Conn {
	for {
		switch c := conn.(type) {
		case *net.TCPConn:
			return of(c)
		case interface{ NetConn() net.Conn }: // *tls.Conn
			conn = c.NetConn()
		default:
			return nil
		}
	}
}
