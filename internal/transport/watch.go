package transport

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/readable"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// A clientWatch notices when the client of a connection goes. It ends at the first byte of the client's next request,
// like net/http's own watch. Where the system reports when a socket can be read, no goroutine waits for that.
type clientWatch struct {
	conn   net.Conn
	raw    syscall.RawConn // nil if it is unknown
	gone   chan struct{}   // closed when the client is gone
	onGone func()          // is called when the client is gone, in its own goroutine; may be nil

	mu    sync.Mutex
	watch readable.Watch
	done  chan struct{} // closed when the goroutine has ended; nil if there is none
	early []byte        // what the client has sent of its next request
	over  bool
}

func (w *clientWatch) init(conn net.Conn, onGone func()) {
	w.conn, w.raw, w.gone, w.onGone = conn, socket.Raw(conn), make(chan struct{}), onGone
}

func (w *clientWatch) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.raw != nil {
		if watch, err := readable.Start(w.raw, w); err == nil {
			w.watch = watch
			return
		}
	}
	w.wait()
}

// Readable implements [readable.Waiter].
func (w *clientWatch) Readable() {
	defer guard.Recover(guard.Connection, w.fail)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	first := make([]byte, 1)
	n, err := readable.Read(w.raw, first)
	if !errors.Is(err, readable.ErrNothing) {
		w.note(first[:n], err)
		return
	}
	if w.watch.Again(w.raw) != nil {
		w.watch.Stop(w.raw)
		w.wait()
	}
}

// wait starts a goroutine that waits. The caller holds the lock.
func (w *clientWatch) wait() {
	done := make(chan struct{})
	w.done = done
	go func() {
		defer close(done)
		defer guard.Recover(guard.Connection, w.fail)
		first := make([]byte, 1)
		n, err := w.conn.Read(first)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.note(first[:n], err)
	}()
}

// note records what was read. The caller holds the lock.
func (w *clientWatch) note(early []byte, err error) {
	switch {
	case len(early) > 0:
		w.early = early
	case !errors.Is(err, os.ErrDeadlineExceeded): // end sets a deadline to stop the goroutine
		close(w.gone)
		if w.onGone != nil {
			go w.onGone()
		}
	}
}

// fail takes the client for gone, because the watch has panicked.
func (w *clientWatch) fail() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over && !isClosed(w.gone) {
		w.note(nil, errPanicked)
	}
}

// end ends the watch. It returns what the client has sent of its next request, and whether the client is gone.
func (w *clientWatch) end() (early []byte, gone bool) {
	w.mu.Lock()
	w.over = true
	w.watch.Stop(w.raw)
	done := w.done
	w.mu.Unlock()
	if done != nil {
		_ = w.conn.SetReadDeadline(time.Unix(1, 0))
		<-done
	}
	return w.early, isClosed(w.gone)
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
