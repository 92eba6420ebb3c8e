package handover

import (
	"cmp"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// Socket returns the socket of a connection. It returns nil if the connection is more than a socket, such as TLS.
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

// IsSocket reports whether [Socket] returns a socket for a connection, now or once the server has read what was read before.
func IsSocket(conn net.Conn) bool {
	switch c := conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	case *Prefixed:
		return IsSocket(c.Conn)
	case *Conn:
		return IsSocket(c.Prefixed)
	}
	return false
}

// GiveBack gives a hijacked connection back to its server, or to the server that has replaced it, for the client's next
// requests. early is what was already read of the next request, if anything, without the empty lines that net/http skips
// only after a body that it has read itself. [Socket] must return a socket for the connection. If the connection is hijacked
// again, [Note] returns the note.
func GiveBack(server *http.Server, conn net.Conn, early []byte, note any) {
	next := prefixed(Socket(conn), early)
	next.note = note
	if err := next.SetDeadline(time.Time{}); err != nil {
		_ = next.Close()
		return
	}
	guard.Go(guard.Connection, func() {
		if c, ok := conn.(*Conn); ok {
			c.listener.group.give(next, c.listener.settings)
		} else {
			givenBackTo(server).give(next)
		}
	}, func() { _ = next.Close() })
}

// Note returns the note that the connection got from [GiveBack], or nil.
func Note(conn net.Conn) any {
	if c, ok := conn.(interface{ Note() any }); ok {
		return c.Note()
	}
	return nil
}

// Outlives reports whether a connection stays open when another server replaces its own.
func Outlives(conn net.Conn) bool {
	_, ok := conn.(*Conn)
	return ok
}

// givenBack is the listener from which a server accepts the connections that are given back to it.
type givenBack struct {
	server  *http.Server
	conns   chan *Prefixed
	waiting waiting
	last    *Prefixed // the last that the server has accepted; for the goroutine that accepts

	closed    chan struct{}
	closeOnce sync.Once
}

var (
	allGivenBackMu sync.Mutex
	allGivenBack   = map[*http.Server]*givenBack{}
)

// givenBackTo returns the listener of a server. The server accepts from it until it shuts down.
func givenBackTo(server *http.Server) *givenBack {
	allGivenBackMu.Lock()
	defer allGivenBackMu.Unlock()
	r := allGivenBack[server]
	if r == nil {
		r = &givenBack{server: server, conns: make(chan *Prefixed), closed: make(chan struct{})}
		allGivenBack[server] = r
		guard.Go(guard.Connection, r.serve, func() {
			if r.last != nil {
				_ = r.last.Close()
			}
		})
	}
	return r
}

// serve makes the server accept connections until it shuts down, or not at all if it already has. If a hook of the server
// panics, it ends too, and the next connection makes the server accept again.
func (r *givenBack) serve() {
	defer func() {
		_ = r.Close()
		allGivenBackMu.Lock()
		defer allGivenBackMu.Unlock()
		delete(allGivenBack, r.server)
	}()
	_ = r.server.Serve(r)
}

// give waits for the client's next request, and then passes the connection to the server.
func (r *givenBack) give(conn *Prefixed) {
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
func (r *givenBack) Accept() (net.Conn, error) {
	select {
	case r.last = <-r.conns:
		return r.last, nil
	case <-r.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (r *givenBack) Close() error {
	r.closeOnce.Do(func() {
		close(r.closed)
		r.waiting.close()
	})
	return nil
}

// Addr implements [net.Listener].
func (r *givenBack) Addr() net.Addr { return givenBackAddr{} }

type givenBackAddr struct{}

func (givenBackAddr) Network() string { return "returns" }
func (givenBackAddr) String() string  { return "connections that were taken over" }
