//go:build unix && !darwin && !linux && !openbsd

package socket

import "syscall"

// writev writes the first piece to a socket, or part of it. Package unix has no writev for this system.
func writev(fd int, pieces [][]byte) (int, error) { return syscall.Write(fd, pieces[0]) }
