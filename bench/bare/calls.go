package main

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of this file are raw: Go's runtime does not notice them, so it does not wake the thread that watches over
// long ones. This program has nothing else to run meanwhile.

// wait waits until one of the sockets of an epoll instance has something to read.
func wait(epoll int, events []unix.EpollEvent) (int, error) {
	return result(unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), ^uintptr(0), 0, 0)) //nolint:gosec // as unix.EpollWait does
}

func read(fd int, p []byte) (int, error) {
	return result(unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))) //nolint:gosec // as unix.Read does
}

// write writes p to a socket, which blocks until it has room.
func write(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := result(unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))) //nolint:gosec // as unix.Write does
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
			return nil // the epoll instance reports it too
		case err != nil:
			return err
		default:
			p = p[n:]
		}
	}
	return nil
}

func result(n, _ uintptr, e unix.Errno) (int, error) {
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}
