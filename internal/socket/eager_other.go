//go:build !unix

package socket

import (
	"net"
	"syscall"
)

// An eager writer is never made on this system.
type eager struct{ raw syscall.RawConn }

func newEager(net.Conn) *eager { return nil }

// Write is never called.
func (*eager) Write([]byte) (int, error) { return 0, nil }

// WritePieces is never called.
func (*eager) WritePieces([][]byte) (int, error) { return 0, nil }
