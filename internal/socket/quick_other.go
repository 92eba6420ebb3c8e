//go:build !linux

package socket

import "net"

// Quick returns conn. On Linux it returns a connection that costs less.
func Quick(conn net.Conn) net.Conn { return conn }
