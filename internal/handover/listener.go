// Package handover keeps HTTP/1.1 connections open when one server replaces another at the same address. That happens
// when Caddy reloads its configuration.
//
// When a server shuts down, net/http closes connections that clients still need:
//   - connections without a request, which the client may be about to use;
//   - connections whose request was read a moment too late, which get no answer;
//   - connections that nobody has accepted yet, which close with the listening socket.
//
// A [Listener] passes all of them to the server that now listens at the address. If part of a request was read and
// nobody has begun to serve it, the new server gets that part too.
package handover

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

const (
	// lingering is how long the sockets of closed listeners still accept, counted from when the last of those listeners
	// was closed. Some clients had already begun to connect to them. New connections are steered to the newest socket.
	// Caddy counts the address as used during this time. If the process exits then, there is no shutdown_delay.
	lingering = time.Second
	// maxLingering is how many sockets linger at most. If listeners are closed faster, again and again, some linger for less.
	maxLingering = 64
	// maxUndecided is how long a request waits at most, once its server has a successor, to learn whether the server
	// continues.
	maxUndecided = 250 * time.Millisecond
)

// A Listener accepts connections that can be passed on. Its methods are safe for concurrent use.
type Listener struct {
	net.Listener

	group    *group
	settings Settings
	opened   time.Time

	accepted  chan *Prefixed
	failed    chan error
	closed    chan struct{}
	gone      chan struct{}            // closed when the socket is; the socket accepts for a while after closed
	successor atomic.Pointer[Listener] // the newest listener at the address, if that is not this one
	closedAt  time.Time                // when closed was closed; guarded by the group's mu

	closeSocket func() error
}

// Settings say how a [Listener] treats connections.
type Settings struct {
	// Bare is the listener that is wrapped, without the wrapper that Caddy puts around a socket. If it is nil, there is no
	// such wrapper.
	Bare net.Listener
	// Idle is how long a connection that is being passed on may stay without a request; 0 means no limit.
	Idle time.Duration
	// Header is how long the header of a request on such a connection may take; 0 means no limit.
	Header time.Duration
	// KeepAlive applies to the connections that the listener accepts for other listeners.
	KeepAlive net.KeepAliveConfig
}

// Listen wraps a listener. Listeners of the same type at the same address succeed each other: when one is closed, its
// connections go to the newest.
func Listen(inner net.Listener, settings Settings) *Listener {
	if settings.Bare == nil {
		settings.Bare = inner
	}
	l := &Listener{
		Listener: inner, settings: settings, opened: time.Now(),
		accepted: make(chan *Prefixed), failed: make(chan error), closed: make(chan struct{}), gone: make(chan struct{}),
	}
	l.closeSocket = sync.OnceValue(func() error {
		close(l.gone)
		return inner.Close()
	})
	// The type shows what is between this listener and the socket. For example, a connection that was accepted without
	// TLS must not reach a server that expects TLS.
	l.group = join(fmt.Sprintf("%T %s %s", settings.Bare, inner.Addr().Network(), inner.Addr()), l)
	go l.pump()
	return l
}

// pump passes on the connections that the socket accepts.
func (l *Listener) pump() {
	for l.pumpOne() {
	}
}

// pumpOne passes on the next connection. It reports false when there will be no more. Other listener wrappers may be below
// this one, and may panic.
func (l *Listener) pumpOne() (more bool) {
	var conn net.Conn
	defer guard.Recover(guard.Connection, func() {
		if conn != nil {
			_ = conn.Close()
		}
		more = l.pause()
	})
	var err error
	if conn, err = l.Listener.Accept(); err != nil {
		select {
		case l.failed <- err: // the server waits a little, or gives up
			return true
		case <-l.closed:
		}
		return l.pause()
	}
	select {
	case l.accepted <- prefixed(conn, nil):
	case <-l.closed:
		if isSecure(conn) { // the successor may have other TLS policies
			_ = conn.Close()
			return true
		}
		l.group.pass(prefixed(conn, nil))
	}
	return true
}

// pause waits a little before the next connection. It reports false when the socket is closed.
func (l *Listener) pause() bool {
	select {
	case <-l.gone: // on some systems, Caddy's listeners report this with an error of their own
		return false
	case <-time.After(retry):
		return true
	}
}

// retry is how long to wait after a connection could not be accepted, for example for lack of file descriptors.
const retry = 10 * time.Millisecond

// Accept implements [net.Listener].
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accepted:
		return l.wrap(conn), nil
	case err := <-l.failed:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]. If there is a successor, the socket still accepts for a short time.
func (l *Listener) Close() error {
	if l.group.leave(l) {
		return nil
	}
	return l.closeSocket()
}

func (l *Listener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// isOver reports whether this listener's server is shutting down. A server with a successor may be about to shut down,
// so isOver then waits for the decision: net/http does not say which requests it still serves.
func (l *Listener) isOver() bool {
	successor := l.successor.Load()
	if successor == nil {
		return l.isClosed()
	}
	timer := time.NewTimer(time.Until(successor.opened.Add(maxUndecided)))
	defer timer.Stop()
	select {
	case <-l.closed:
		return true
	case <-successor.closed: // its configuration has failed
	case <-timer.C:
	}
	return l.isClosed()
}

// A group holds the listeners of one address.
type group struct {
	key string

	mu      sync.Mutex
	open    []*Listener // the newest is last
	waiting waiting

	lingering []*Listener // closed, but their sockets still accept; the one that was closed last is last
	steering  *steering   // set once a socket has lingered
	sockets   []any       // in the kernel's order: each *Listener that is open or lingers, and the steering
}

var (
	groupsMu sync.Mutex
	groups   = map[string]*group{}
)

// join adds a listener to the group of its address.
func join(key string, l *Listener) *group {
	groupsMu.Lock()
	defer groupsMu.Unlock()
	g := groups[key]
	if g == nil {
		g = &group{key: key}
		groups[key] = g
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = append(g.open, l)
	g.sockets = append(g.sockets, l)
	g.setSuccessors()
	g.endSome()
	return g
}

// setSuccessors sets the successor of each listener. The caller holds the lock.
func (g *group) setSuccessors() {
	newest := g.newest()
	for _, l := range g.open {
		if l == newest {
			l.successor.Store(nil)
		} else {
			l.successor.Store(newest)
		}
	}
}

func (g *group) newest() *Listener {
	if len(g.open) == 0 {
		return nil
	}
	return g.open[len(g.open)-1]
}

// leave closes a listener of the group and reports whether its socket lingers.
func (g *group) leave(l *Listener) (lingers bool) {
	groupsMu.Lock()
	defer groupsMu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.open, l)
	if i < 0 {
		return false
	}
	g.open = slices.Delete(g.open, i, i+1)
	close(l.closed)
	g.setSuccessors()
	if len(g.open) == 0 {
		g.dissolve()
		return false
	}
	return g.linger(l)
}

// dissolve ends what is left of a group that has no open listener. The caller holds the lock.
func (g *group) dissolve() {
	delete(groups, g.key)
	g.waiting.close()
	for _, l := range g.lingering {
		l.endSocket()
	}
	g.lingering = nil
	if g.steering != nil {
		g.steering.close()
	}
}

// forget removes a closed socket as the kernel does: the group's last socket takes its place in the order.
func (g *group) forget(socket any) {
	if i := slices.Index(g.sockets, socket); i >= 0 {
		last := len(g.sockets) - 1
		g.sockets[i] = g.sockets[last]
		g.sockets = g.sockets[:last]
	}
}

// successor returns the listener that gets the connections of closed listeners, or nil if there is none.
func (g *group) successor() *Listener {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.newest()
}

// pass passes a connection to the newest listener, or closes it if there is none.
func (g *group) pass(conn *Prefixed) {
	for {
		successor := g.successor()
		if successor == nil {
			_ = conn.Close()
			return
		}
		select {
		case successor.accepted <- conn:
			return
		case <-successor.closed:
		}
	}
}

// give waits for the client's next request, and then passes the connection on.
func (g *group) give(conn *Prefixed, settings Settings) {
	if g.waiting.await(conn, settings.Idle, settings.Header) {
		g.pass(conn)
	}
}
