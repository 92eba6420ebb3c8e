package transport

import (
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// giveBack gives a connection that was taken over back to its server, for the client's next requests. The server gets
// it when the next request begins: before that it would be a new connection to net/http, which delays the server's
// shutdown.
func giveBack(server *http.Server, conn net.Conn, early []byte) {
	r := returnsTo(server)
	if !r.add(conn) {
		_ = conn.Close()
		return
	}
	go r.await(&earlyConn{Conn: conn, early: slices.Clone(early)})
}

// returns is the listener by which a server accepts connections that are given back to it. It knows those on which no
// request has begun, to close them with the server.
type returns struct {
	server *http.Server
	conns  chan net.Conn

	closed  chan struct{}
	mu      sync.Mutex
	waiting map[net.Conn]struct{} // nil once it is closed
}

var (
	allReturnsMu sync.Mutex
	allReturns   = map[*http.Server]*returns{}
)

// returnsTo returns the listener of a server, which accepts from it until it is shut down.
func returnsTo(server *http.Server) *returns {
	allReturnsMu.Lock()
	defer allReturnsMu.Unlock()
	r := allReturns[server]
	if r == nil {
		r = &returns{
			server: server, conns: make(chan net.Conn), closed: make(chan struct{}), waiting: map[net.Conn]struct{}{},
		}
		allReturns[server] = r
		go func() {
			_ = server.Serve(r) // until the server is shut down, or at once if it is
			_ = r.Close()
			allReturnsMu.Lock()
			defer allReturnsMu.Unlock()
			delete(allReturns, server)
		}()
	}
	return r
}

// add reports whether the server still takes connections.
func (r *returns) add(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		return false
	}
	r.waiting[conn] = struct{}{}
	return true
}

// await waits for a request to begin, and passes the connection to the server.
func (r *returns) await(conn *earlyConn) {
	err := conn.SetDeadline(time.Time{})
	if err == nil && len(conn.early) == 0 {
		err = conn.awaitByte(r.server.IdleTimeout)
	}
	if err == nil {
		select {
		case r.conns <- conn:
			return
		case <-r.closed:
		}
	}
	r.mu.Lock()
	delete(r.waiting, conn.Conn)
	r.mu.Unlock()
	_ = conn.Close()
}

// Accept implements [net.Listener].
func (r *returns) Accept() (net.Conn, error) {
	select {
	case conn := <-r.conns:
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.waiting, conn.(*earlyConn).Conn)
		return conn, nil
	case <-r.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (r *returns) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		return nil
	}
	for conn := range r.waiting {
		_ = conn.Close()
	}
	r.waiting = nil
	close(r.closed)
	return nil
}

// Addr implements [net.Listener].
func (r *returns) Addr() net.Addr { return returnsAddr{} }

type returnsAddr struct{}

func (returnsAddr) Network() string { return "returns" }
func (returnsAddr) String() string  { return "connections that were taken over" }

// An earlyConn is a socket of which something was read already.
type earlyConn struct {
	net.Conn

	early []byte
}

// awaitByte waits for the first byte, for a time if it is not 0.
func (c *earlyConn) awaitByte(limit time.Duration) error {
	if limit > 0 {
		if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
			return err
		}
	}
	first := make([]byte, 1)
	n, err := c.Conn.Read(first)
	if n == 0 {
		return err
	}
	c.early = first
	return c.SetReadDeadline(time.Time{})
}

func (c *earlyConn) Read(p []byte) (int, error) {
	if len(c.early) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.early)
	if c.early = c.early[n:]; len(c.early) == 0 {
		c.early = nil
	}
	return n, nil
}

// NetConn returns the socket.
func (c *earlyConn) NetConn() net.Conn { return c.Conn }

// ReadFrom lets files be sent by the kernel.
func (c *earlyConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite is how net/http says goodbye.
func (c *earlyConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
