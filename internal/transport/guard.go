package transport

import (
	"sync"
	"time"
)

// A guard gives up writes to a stream of HTTP/2 that take too long. A deadline for each of them would go through the
// goroutine of the connection, and through a heap of timers that has one for each reader: several times for each message. A
// guard's timer goes on from one write to the next.
type guard struct {
	bounds Bounds

	mu     sync.Mutex
	since  time.Time   // when the write in progress began; zero if there is none
	timer  *time.Timer // calls look; nil before the first write
	armed  bool        // it runs
	failed bool        // the stream was reset
	over   bool
}

// begin follows the begin of a write, or of another piece of it.
func (g *guard) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.since = time.Now()
	switch {
	case g.timer == nil:
		g.timer = time.AfterFunc(g.bounds.Timeout, g.look)
	case !g.armed:
		g.timer.Reset(g.bounds.Timeout)
	}
	g.armed = true
}

// end follows the end of a write.
func (g *guard) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.since = time.Time{}
}

// look looks whether a write takes too long. Then the stream is reset; if its connection does not even take that, it is
// closed after the same time again.
func (g *guard) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over || g.since.IsZero() {
		g.armed = false
		return
	}
	limit := g.bounds.Timeout
	if g.failed {
		limit *= 2
	}
	if left := limit - time.Since(g.since); left > 0 {
		g.timer.Reset(left)
		return
	}
	if g.failed {
		_ = g.bounds.Conn.Close()
		return
	}
	g.failed = true
	_ = g.bounds.Reset() // if there is no other way, the connection is closed
	g.timer.Reset(limit)
}

// stop ends the guard. Nothing is reset or closed after it.
func (g *guard) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	if g.timer != nil {
		g.timer.Stop()
	}
}
