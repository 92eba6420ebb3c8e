//go:build !unix

package socket

import "net"

// An eager writer is never made on this system.
type eager struct{}

func newEager(net.Conn) *eager { return nil }

// Write is never called.
func (*eager) Write([]byte) (int, error) { return 0, nil }

// WritePieces is never called.
func (*eager) WritePieces([][]byte) (int, error) { return 0, nil }
