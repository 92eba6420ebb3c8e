// Command bare shows the least that a delivery costs a server. It has one thread, which waits for input with epoll. A GET makes its
// connection a reader of the path, and the body of a POST is written to all readers of its path, with one system call for each.
// There is no queue, no check, no envelope and no time limit, and a request must arrive in one piece. With Redis, messages go through
// its Pub/Sub, so several of these servers share paths.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
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
	relay           *relay // nil if this server has its paths for itself
	readers         map[string][]int
	buffer          [16 << 10]byte
}

// run serves at the address that is in a file, until something fails. The file is the command's argument. Its second line, if there
// is one, is the path of Redis' socket.
func run() error {
	if len(os.Args) != 2 {
		return errors.New("the argument must be a file with an address, such as 127.0.0.1:8080")
	}
	config, err := os.ReadFile(os.Args[1]) //nolint:gosec // the caller chooses the file
	if err != nil {
		return err
	}
	line, socket, _ := strings.Cut(string(config), "\n")
	address, err := netip.ParseAddrPort(line)
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
	if socket != "" {
		if err := s.dialRedis(socket); err != nil {
			return err
		}
	}
	var events [128]unix.EpollEvent
	for {
		n, err := wait(s.epoll, events[:])
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

// serve accepts a connection, serves a request, or takes what comes from Redis.
func (s *server) serve(fd int) error {
	if taken, err := s.receive(fd); taken {
		return err
	}
	if fd == s.listener {
		c, _, err := unix.Accept(fd)
		if err != nil {
			return err
		}
		_ = unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		return s.watch(c)
	}
	n, err := read(fd, s.buffer[:])
	if err != nil || n == 0 {
		for path, fds := range s.readers {
			s.readers[path] = slices.DeleteFunc(fds, func(reader int) bool { return reader == fd })
		}
		return unix.Close(fd)
	}
	for rest := s.buffer[:n]; len(rest) > 0; {
		if rest, err = s.request(fd, rest); err != nil {
			return err
		}
	}
	return nil
}

// request serves the first of the requests that have arrived, and returns the rest.
func (s *server) request(fd int, p []byte) (rest []byte, err error) {
	head, rest, _ := bytes.Cut(p, []byte("\r\n\r\n"))
	method, path, _ := strings.Cut(string(head[:bytes.Index(head, []byte(" HTTP/"))]), " ")
	if method == "GET" {
		if s.relay != nil && len(s.readers[path]) == 0 {
			if err := s.relay.subscribe(path); err != nil {
				return nil, err
			}
		}
		s.readers[path] = append(s.readers[path], fd)
		return rest, write(fd, []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))
	}
	_, after, _ := bytes.Cut(head, []byte("Content-Length: "))
	digits, _, _ := bytes.Cut(after, []byte("\r"))
	length, err := strconv.Atoi(string(digits))
	if err != nil || length > len(rest) {
		return nil, fmt.Errorf("not a whole request: %q", p)
	}
	body, rest := rest[:length], rest[length:]
	if s.relay != nil {
		return rest, s.relay.publish(fd, path, body)
	}
	return rest, errors.Join(s.deliver(path, body), write(fd, created))
}

var created = []byte("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

// deliver writes a message to the readers of a path.
func (s *server) deliver(path string, body []byte) error {
	chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", len(body), body)
	for _, reader := range s.readers[path] {
		if err := write(reader, chunk); err != nil {
			return err
		}
	}
	return nil
}
