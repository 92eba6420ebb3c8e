package handover

import (
	"net"
	"sync"
	"time"
)

// waiting holds the connections that wait for their client's next request. A server gets such a connection only once
// the request's header has arrived. Before that, net/http would treat it as a new connection, and new connections delay
// the server's shutdown. The zero value is ready to use.
type waiting struct {
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// await waits for a request, as readHead does, and reports whether one has come. If none comes, it closes the
// connection.
func (w *waiting) await(conn *Prefixed, idle, header time.Duration) bool {
	if !w.add(conn) {
		_ = conn.Close()
		return false
	}
	defer w.remove(conn) // in case of a panic
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

// remove removes a connection. It reports false if close was called before.
func (w *waiting) remove(conn net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, conn)
	return !w.closed
}

// close closes all waiting connections, and makes await close each connection that comes later.
func (w *waiting) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for conn := range w.conns {
		_ = conn.Close()
	}
}
