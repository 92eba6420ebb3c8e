//go:build !unix

package socket

import (
	"net"
	"syscall"
)

// A nonblocking writer is never made on this system.
type nonblocking struct{ raw syscall.RawConn }

func newNonblocking(net.Conn) *nonblocking { return nil }

// Write is never called.
func (*nonblocking) Write([]byte) (int, error) { return 0, nil }

// WritePieces is never called.
func (*nonblocking) WritePieces([][]byte) (int, error) { return 0, nil }
