// Command bare shows the least that a delivery costs a server. It has one thread, which waits for input with epoll. A GET makes its
// connection a reader of the path, and the body of a POST is written to all readers of its path, with one system call for each.
// There is no queue, no check, no envelope and no time limit, and a request must arrive in one piece.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	runtime.LockOSThread()
	fmt.Fprintln(os.Stderr, "bare:", run())
	os.Exit(1)
}

type server struct {
	epoll, listener int
	readers         map[string][]int
	buffer          [16 << 10]byte
}

// run serves at the address that is in a file, until something fails. The file is the command's argument.
func run() error {
	if len(os.Args) != 2 {
		return errors.New("the argument must be a file with an address, such as 127.0.0.1:8080")
	}
	config, err := os.ReadFile(os.Args[1]) //nolint:gosec // the caller chooses the file
	if err != nil {
		return err
	}
	address, err := netip.ParseAddrPort(string(config))
	if err != nil {
		return err
	}
	s := &server{readers: map[string][]int{}}
	if s.epoll, err = unix.EpollCreate1(0); err != nil {
		return err
	}
	if s.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err != nil {
		return err
	}
	if err := unix.Bind(s.listener, &unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}); err != nil {
		return err
	}
	if err := unix.Listen(s.listener, 1024); err != nil {
		return err
	}
	if err := s.watch(s.listener); err != nil {
		return err
	}
	var events [128]unix.EpollEvent
	for {
		n, err := unix.EpollWait(s.epoll, events[:], -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, e := range events[:max(0, n)] {
			if err := s.serve(int(e.Fd)); err != nil {
				return err
			}
		}
	}
}

func (s *server) watch(fd int) error {
	return unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}) //nolint:gosec // descriptors are small
}

// serve accepts a connection, or serves a request.
func (s *server) serve(fd int) error {
	if fd == s.listener {
		c, _, err := unix.Accept(fd)
		if err != nil {
			return err
		}
		_ = unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		return s.watch(c)
	}
	n, err := unix.Read(fd, s.buffer[:])
	if err != nil || n == 0 {
		for path, fds := range s.readers {
			s.readers[path] = slices.DeleteFunc(fds, func(reader int) bool { return reader == fd })
		}
		return unix.Close(fd)
	}
	head, body, _ := bytes.Cut(s.buffer[:n], []byte("\r\n\r\n"))
	method, path, _ := strings.Cut(string(head[:bytes.Index(head, []byte(" HTTP/"))]), " ")
	if method == "GET" {
		s.readers[path] = append(s.readers[path], fd)
		return write(fd, []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))
	}
	chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", len(body), body)
	for _, reader := range s.readers[path] {
		if err := write(reader, chunk); err != nil {
			return err
		}
	}
	return write(fd, []byte("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"))
}

// write writes p to a socket, which blocks until it has room.
func write(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
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
