//go:build darwin || linux || openbsd

package socket

import "golang.org/x/sys/unix"

// maxPieces is how many pieces these systems accept at once (IOV_MAX).
const maxPieces = 1024

// writev writes pieces to a socket, or part of them.
func writev(fd int, pieces [][]byte) (int, error) {
	return unix.Writev(fd, pieces[:min(len(pieces), maxPieces)])
}
