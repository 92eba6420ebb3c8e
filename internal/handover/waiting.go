package handover

import (
	"net"
	"sync"
	"time"
)

// waiting is the connections that wait for the next request of their client. A server gets them when its header is there:
// before that they would be new connections to net/http, which delay the server's shutdown. The zero value is ready.
type waiting struct {
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// await waits for a request, as readHead does. If none comes, the connection is closed.
func (w *waiting) await(conn *Prefixed, idle, header time.Duration) bool {
	if !w.add(conn) {
		_ = conn.Close()
		return false
	}
	err := conn.readHead(idle, header)
	if !w.remove(conn) || err != nil {
		_ = conn.Close()
		return false
	}
	return true
}

func (w *waiting) add(conn net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	if w.conns == nil {
		w.conns = map[net.Conn]struct{}{}
	}
	w.conns[conn] = struct{}{}
	return true
}

// remove reports whether close has not come before.
func (w *waiting) remove(conn net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, conn)
	return !w.closed
}

// close closes all that wait and that will.
func (w *waiting) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for conn := range w.conns {
		_ = conn.Close()
	}
}
