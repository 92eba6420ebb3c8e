// Package handover keeps HTTP/1.1 connections alive when one server takes the place of another at the same address, as
// it happens when Caddy reloads its configuration.
//
// net/http closes connections when a server shuts down: those without a request, which the client may be about to use;
// those whose request it read a moment too late, without an answer; and with the listening socket those that nobody
// has accepted. A [Listener] passes all of them to the server that listens at the address now, with what was read of a
// request that nobody has begun to serve.
package handover

import (
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lingering is how long sockets accept after the last of their listeners was closed, for clients that had begun to
	// connect to them. New ones are steered to the newest. Caddy counts the address as used meanwhile, so when the
	// process exits then, there is no shutdown_delay.
	lingering = time.Second
	// maxLingering is how many sockets linger at most.
	maxLingering = 64
	// suspense is how long a request waits at most to know whether its server goes on, once there is an heir.
	suspense = 250 * time.Millisecond
)

// A Listener accepts connections that can be passed on. Its methods are safe for concurrent use.
type Listener struct {
	net.Listener

	group    *group
	settings Settings
	opened   time.Time

	accepted chan *Prefixed
	failed   chan error
	closed   chan struct{}
	gone     chan struct{}            // closed when the socket is: it accepts for a while after closed
	heir     atomic.Pointer[Listener] // is open at the same address since later

	closeSocket func() error
}

// Settings are how a [Listener] treats connections.
type Settings struct {
	// Idle is how long a connection is kept that has no request while it is passed on; 0 is for ever.
	Idle time.Duration
	// Header is how long the header of a request may take meanwhile; 0 is for ever.
	Header time.Duration
	// KeepAlive is for connections that the listener accepts for others.
	KeepAlive net.KeepAliveConfig
}

// Listen makes a Listener of another. Listeners of the same address and type inherit from each other: from a closed one
// its connections go to the newest.
func Listen(inner net.Listener, settings Settings) *Listener {
	l := &Listener{
		Listener: inner, settings: settings, opened: time.Now(),
		accepted: make(chan *Prefixed), failed: make(chan error), closed: make(chan struct{}), gone: make(chan struct{}),
	}
	l.closeSocket = sync.OnceValue(func() error {
		close(l.gone)
		return inner.Close()
	})
	// The type tells what is between this listener and the socket. What was accepted without TLS, say, must not come
	// to a server that expects it.
	l.group = join(fmt.Sprintf("%T %s %s", counted(inner), inner.Addr().Network(), inner.Addr()), l)
	go l.pump()
	return l
}

// counted returns the listener that Caddy has wrapped to count the users of its address, as it does for some only. The
// type of that is not exported. Should it get another name, a test tells.
func counted(l net.Listener) net.Listener {
	if reflect.TypeOf(l).String() == "caddy.deleteListener" {
		if inner, ok := reflect.TypeAssert[net.Listener](reflect.ValueOf(l).FieldByName("Listener")); ok {
			return inner
		}
	}
	return l
}

// pump passes on what the socket accepts.
func (l *Listener) pump() {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			select {
			case l.failed <- err: // the server waits a little, or gives up
				continue
			case <-l.closed:
			}
			select {
			case <-l.gone: // Caddy's listeners tell that in words of their own on some systems
				return
			case <-time.After(retry):
			}
			continue
		}
		select {
		case l.accepted <- prefixed(conn, nil):
		case <-l.closed:
			if isSecure(conn) { // the heir may have other policies
				_ = conn.Close()
				continue
			}
			l.group.pass(prefixed(conn, nil))
		}
	}
}

// retry is how long to wait when a connection cannot be accepted, for want of file descriptors for instance.
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

// Close implements [net.Listener]. If there is an heir, the socket lingers a little.
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

// isOver reports whether the server of this listener is shutting down. If it soon may, because it has an heir, isOver
// waits until that is known: net/http tells nobody which requests it still serves.
func (l *Listener) isOver() bool {
	heir := l.heir.Load()
	if heir == nil {
		return l.isClosed()
	}
	timer := time.NewTimer(time.Until(heir.opened.Add(suspense)))
	defer timer.Stop()
	select {
	case <-l.closed:
		return true
	case <-heir.closed: // its configuration has failed
	case <-timer.C:
	}
	return l.isClosed()
}

// A group is the listeners of one address.
type group struct {
	key string

	mu      sync.Mutex
	open    []*Listener // the newest is last
	waiting waiting

	lingering []*Listener // were closed, but their sockets accept
	closed    time.Time   // when the last of them was
	steering  *steering   // once one has lingered
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
	g.name()
	return g
}

// name tells each listener who its heir is. The lock is held.
func (g *group) name() {
	newest := g.newest()
	for _, l := range g.open {
		if l == newest {
			l.heir.Store(nil)
		} else {
			l.heir.Store(newest)
		}
	}
}

func (g *group) newest() *Listener {
	if len(g.open) == 0 {
		return nil
	}
	return g.open[len(g.open)-1]
}

// leave closes a listener of the group, and reports whether its socket lingers.
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
	g.name()
	if len(g.open) == 0 {
		g.dissolve()
		return false
	}
	return g.linger(l)
}

// linger lets the socket of a listener that was closed go on accepting for a while, and reports whether it does.
// The lock is held.
func (g *group) linger(l *Listener) bool {
	if g.steering == nil {
		g.steering = newSteering(l.Listener, l.settings.KeepAlive, func(conn net.Conn) { g.pass(prefixed(conn, nil)) })
		if g.steering == nil {
			g.forget(l)
			return false
		}
		g.sockets = append(g.sockets, g.steering)
	}
	if len(g.lingering) == 0 {
		time.AfterFunc(lingering, g.endLingering)
	}
	g.lingering, g.closed = append(g.lingering, l), time.Now()
	g.steering.to(slices.Index(g.sockets, any(g.newest())))
	return true
}

// endLingering closes the sockets that linger. They all go at once, after a while without a change, because the kernel's
// order is not known while one is closed and another has just been opened.
func (g *group) endLingering() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.lingering) == 0 {
		return // the group was dissolved
	}
	if left := lingering - time.Since(g.closed); left > 0 && len(g.lingering) < maxLingering {
		time.AfterFunc(left, g.endLingering)
		return
	}
	for _, l := range g.lingering {
		// Two sockets accept that stay open. The kernel is about to move the last one.
		var target any = g.newest()
		if target == g.sockets[len(g.sockets)-1] {
			target = g.steering
		}
		g.steering.to(slices.Index(g.sockets, target))
		_ = l.closeSocket()
		g.forget(l)
	}
	g.lingering = nil
	g.steering.off()
}

// dissolve ends what a group has left without a listener. The lock is held.
func (g *group) dissolve() {
	delete(groups, g.key)
	g.waiting.close()
	for _, l := range g.lingering {
		_ = l.closeSocket()
	}
	g.lingering = nil
	if g.steering != nil {
		g.steering.close()
	}
}

// forget follows the kernel, which puts a group's last socket in the place of one that was closed.
func (g *group) forget(socket any) {
	if i := slices.Index(g.sockets, socket); i >= 0 {
		last := len(g.sockets) - 1
		g.sockets[i] = g.sockets[last]
		g.sockets = g.sockets[:last]
	}
}

// heir returns who is to have the connections of a listener that was closed, or nil.
func (g *group) heir() *Listener {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.newest()
}

// pass passes a connection to the newest listener, or closes it if there is none.
func (g *group) pass(conn *Prefixed) {
	for {
		heir := g.heir()
		if heir == nil {
			_ = conn.Close()
			return
		}
		select {
		case heir.accepted <- conn:
			return
		case <-heir.closed:
		}
	}
}

// give passes a connection on when the client's next request has come.
func (g *group) give(conn *Prefixed, settings Settings) {
	if g.waiting.await(conn, settings.Idle, settings.Header) {
		g.pass(conn)
	}
}
