//go:build unix && (!linux || race)

package socket

import "syscall"

// write writes what the kernel takes at once.
func write(fd uintptr, p []byte) (int, error) {
	return syscall.Write(int(fd), p)
}
