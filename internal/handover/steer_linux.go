package handover

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// steering decides which socket gets new connections, among those that share an address with SO_REUSEPORT. It needs a
// socket of its own among them: Go listens with Multipath TCP by default, and such sockets accept no BPF program. The
// steering's socket stays open: however it is closed, the kernel may just have chosen it for a connection.
type steering struct {
	socket net.Listener
	raw    syscall.RawConn
}

// newSteering returns the steering for the sockets that share the address of a bare listener. It returns nil if the listener
// is more than a socket, does not share its address, or the system does not allow steering. The steering passes the
// connections that its own socket accepts to take.
func newSteering(l net.Listener, keepAlive net.KeepAliveConfig, take func(net.Conn)) *steering {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil
	}
	network := sharedNetwork(tcp)
	if network == "" {
		return nil
	}
	config := net.ListenConfig{
		Control: func(_, _ string, c syscall.RawConn) error {
			return control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		},
		KeepAliveConfig: keepAlive,
	}
	config.SetMultipathTCP(false)
	own, err := config.Listen(context.Background(), network, tcp.Addr().String())
	if err != nil {
		return nil
	}
	raw, err := own.(*net.TCPListener).SyscallConn()
	if err != nil {
		_ = own.Close()
		return nil
	}
	go func() {
		for {
			conn, err := own.Accept()
			switch {
			case err == nil:
				func() {
					defer guard.Recover(guard.Connection, func() { _ = conn.Close() })
					take(conn)
				}()
			case errors.Is(err, net.ErrClosed):
				return
			default:
				time.Sleep(retry)
			}
		}
	}()
	return &steering{own, raw}
}

// to sends all new connections to the socket with this index in the kernel's order. If no socket has that index any
// more, or the kernel refuses, new connections are spread over all sockets.
func (s *steering) to(index int) {
	program := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: uint32(index)}} //nolint:gosec // not negative
	_ = control(s.raw, func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &program)
	})
}

// off lets the kernel spread new connections over the sockets again.
func (s *steering) off() {
	_ = control(s.raw, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0)
	})
}

// close closes the steering's own socket. That happens together with the last of the others.
func (s *steering) close() {
	s.off() // for the sockets of other processes
	_ = s.socket.Close()
}

// sharedNetwork returns the network of a socket that shares its address with SO_REUSEPORT. For other sockets it returns
// an empty string. A socket shares its address only with sockets of the same network.
func sharedNetwork(socket *net.TCPListener) (network string) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return ""
	}
	_ = control(raw, func(fd int) error {
		shared, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT)
		if err != nil || shared == 0 {
			return err
		}
		family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err != nil {
			return err
		}
		if family == unix.AF_INET {
			network = "tcp4"
			return nil
		}
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return err
		}
		if network = "tcp"; only != 0 {
			network = "tcp6"
		}
		return nil
	})
	return network
}

func control(raw syscall.RawConn, f func(fd int) error) error {
	var err error
	if controlErr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); controlErr != nil {
		return controlErr
	}
	return err
}
