package handover

import (
	"bytes"
	"cmp"
	"net"
	"net/http"
	"sync"
	"time"
)

// Socket returns the socket that a connection is, or nil if it is more than that, such as TLS.
func Socket(conn net.Conn) net.Conn {
	switch c := conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return c
	case *Prefixed:
		return c.socket()
	case *Conn:
		return c.socket()
	}
	return nil
}

// GiveBack gives a connection that was taken over from a server back to it for the client's next requests, or to the
// server that has taken its place. What has been read of the next request may be given too. The connection is one that
// [Socket] has a socket of. A note can be left for who takes it over again.
func GiveBack(server *http.Server, conn net.Conn, early []byte, note int) {
	early = bytes.TrimLeft(early, "\r\n") // of an empty line after a body, which net/http expects after its own only
	next := prefixed(Socket(conn), early)
	next.note = note
	if err := next.SetDeadline(time.Time{}); err != nil {
		_ = next.Close()
		return
	}
	if c, ok := conn.(*Conn); ok {
		go c.listener.group.give(next, c.listener.settings)
		return
	}
	go returnsTo(server).give(next)
}

// Note returns what [GiveBack] was told, or 0.
func Note(conn net.Conn) int {
	switch c := conn.(type) {
	case *Prefixed:
		return c.note
	case *Conn:
		return c.note
	}
	return 0
}

// Outlives reports whether a connection goes on when another server takes the place of its own.
func Outlives(conn net.Conn) bool {
	_, ok := conn.(*Conn)
	return ok
}

// returns is the listener by which a server accepts connections that are given back to it.
type returns struct {
	server  *http.Server
	conns   chan *Prefixed
	waiting waiting

	closed    chan struct{}
	closeOnce sync.Once
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
		r = &returns{server: server, conns: make(chan *Prefixed), closed: make(chan struct{})}
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

// give passes a connection to the server when the client's next request has come.
func (r *returns) give(conn *Prefixed) {
	idle, header := cmp.Or(r.server.IdleTimeout, r.server.ReadTimeout), cmp.Or(r.server.ReadHeaderTimeout, r.server.ReadTimeout)
	if !r.waiting.await(conn, idle, header) {
		return
	}
	select {
	case r.conns <- conn:
	case <-r.closed:
		_ = conn.Close()
	}
}

// Accept implements [net.Listener].
func (r *returns) Accept() (net.Conn, error) {
	select {
	case conn := <-r.conns:
		return conn, nil
	case <-r.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (r *returns) Close() error {
	r.closeOnce.Do(func() {
		close(r.closed)
		r.waiting.close()
	})
	return nil
}

// Addr implements [net.Listener].
func (r *returns) Addr() net.Addr { return returnsAddr{} }

type returnsAddr struct{}

func (returnsAddr) Network() string { return "returns" }
func (returnsAddr) String() string  { return "connections that were taken over" }
