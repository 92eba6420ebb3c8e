//go:build !linux || race

package socket

import "net"

// Quick returns conn. On Linux, without the race detector, it returns a connection that costs less.
func Quick(conn net.Conn) net.Conn { return conn }
