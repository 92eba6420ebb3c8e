package handover

import (
	"bytes"
	"io"
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
	if bytes.HasPrefix(conn.early, http2Preface) {
		refuse(conn)
		return false
	}
	return true
}

// http2Preface begins a connection of HTTP/2. net/http looks for it at the beginning of a connection only. It would take
// one that has served HTTP/1.1 for a new one. A proxy that shares such a connection between its clients never expects the
// change.
var http2Preface = []byte("PRI * HTTP/2.0")

// refuse sends what net/http sends for a request that it cannot read, and closes the connection.
func refuse(conn net.Conn) {
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request")
	_ = conn.Close()
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
