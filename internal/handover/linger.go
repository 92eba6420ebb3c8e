package handover

import (
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// linger lets the socket of a closed listener accept for a while longer, and reports whether it does. The caller holds
// the lock.
func (g *group) linger(l *Listener) bool {
	if g.steering == nil {
		g.steering = newSteering(l.settings.Bare, l.settings.KeepAlive, func(conn net.Conn) { g.pass(prefixed(conn, nil)) })
		if g.steering == nil {
			g.forget(l)
			return false
		}
		g.sockets = append(g.sockets, g.steering)
	}
	if len(g.lingering) == 0 {
		time.AfterFunc(lingering, g.endLingering)
	}
	l.closedAt = time.Now()
	g.lingering = append(g.lingering, l)
	g.steering.to(slices.Index(g.sockets, any(g.newest())))
	return true
}

// endLingering closes the lingering sockets. It closes them all at once, after a while without changes: if one socket
// closed while another had just been opened, we would not know the kernel's order.
func (g *group) endLingering() {
	defer guard.Recover(guard.Connection)
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.lingering) == 0 {
		return // the group was dissolved
	}
	left := lingering - time.Since(g.lingering[len(g.lingering)-1].closedAt)
	if at := announced.Load(); at != nil {
		left = max(left, lingering-time.Since(*at))
	}
	if left > 0 {
		time.AfterFunc(left, g.endLingering)
		return
	}
	g.endFirst(len(g.lingering))
	g.steering.off()
}

// announced is when Announce was called last.
var announced atomic.Pointer[time.Time]

// Announce says that a listener may be about to open. No socket closes on its own during the next second.
func Announce() {
	now := time.Now()
	announced.Store(&now)
}

// endSome closes some of the lingering sockets if there are too many. It is called when a listener has just opened, since
// servers start one after the other: no other listener at the address opens at that moment, so the kernel's order is known.
// Listeners close at any time, also while another one has its socket but is not in the group yet. The caller holds the lock.
func (g *group) endSome() {
	if n := tooMany(g.lingering, time.Now()); n > 0 {
		g.endFirst(n)
		g.steering.to(slices.Index(g.sockets, any(g.newest())))
	}
}

// endFirst closes the first n of the lingering sockets. The caller holds the lock, and steers afterwards.
func (g *group) endFirst(n int) {
	for _, l := range g.lingering[:n] {
		// Two accepting sockets stay open: the newest listener's and the steering's own. The kernel is about to move the
		// last socket in its order, so steer to the other one.
		var target any = g.newest()
		if target == g.sockets[len(g.sockets)-1] {
			target = g.steering
		}
		g.steering.to(slices.Index(g.sockets, target))
		l.endSocket()
		g.forget(l)
	}
	g.lingering = slices.Delete(g.lingering, 0, n)
}

// tooMany returns how many of the lingering sockets, from the first, must close because there are too many. The others were
// closed a moment ago: clients may be connecting to them.
func tooMany(lingers []*Listener, now time.Time) int {
	if len(lingers) < maxLingering {
		return 0
	}
	young := slices.IndexFunc(lingers, func(l *Listener) bool { return now.Sub(l.closedAt) < lingering })
	return max(young, len(lingers)-maxLingering/2)
}

// endSocket closes the socket of a listener whose server is over. If that panics, the other sockets close all the same.
func (l *Listener) endSocket() {
	defer guard.Recover(guard.Connection)
	_ = l.closeSocket()
}
