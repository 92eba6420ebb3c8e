// Package receipt tells how much of what was written to a connection has reached the peer's machine. That a
// write succeeded says little: the kernel takes megabytes that a stalled client never receives.
package receipt

import "net"

// Of returns what the operating system knows of the connection, or nil where it does not tell: for other
// systems than Linux, for HTTP/3, and for connections that are wrapped in something unknown.
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
