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

// A listener reads what the client of a WebSocket sends. Where the system reports when a socket can be read, no
// goroutine waits for that.
type listener struct {
	conn    net.Conn
	receive func(p []byte) (more bool) // is called with what was read, one call after the other; it may change p
	onEnd   func()                     // is called after the last call of receive

	mu      sync.Mutex
	raw     syscall.RawConn // nil if a goroutine must wait
	watch   readable.Watch
	watched bool // watch has begun
	stopped bool

	last    time.Time      // when the client last sent something
	reading sync.WaitGroup // the goroutines that listen has started
}

// listen starts to read. bare is the socket, or nil if the connection is more than a socket. early is what was already
// read, if anything.
func (l *listener) listen(bare net.Conn, early []byte) {
	l.raw = socket.Raw(bare)
	switch {
	case len(early) > 0:
		l.reading.Go(func() {
			defer guard.Recover(guard.WebSocket, l.onEnd)
			if !l.receive(early) {
				l.onEnd()
			} else if !l.await() {
				l.read()
			}
		})
	case !l.await():
		l.reading.Go(l.read)
	}
}

// await starts to watch the socket, and reports whether Readable will be called. If not, a goroutine must read.
func (l *listener) await() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.raw == nil || l.stopped {
		return false
	}
	var err error
	if l.watched {
		err = l.watch.Again(l.raw)
	} else {
		l.watch, err = readable.Start(l.raw, l)
	}
	if l.watched = err == nil; !l.watched {
		l.watch.Stop(l.raw)
	}
	return l.watched
}

// Readable implements [readable.Waiter].
func (l *listener) Readable() { go l.readNow() }

// busyTime is how long a goroutine waits for a client that has just sent something twice within that time. So a client
// that acknowledges all the time costs no more than one with its own goroutine. A client that only answers pings has no
// goroutine.
const busyTime = 500 * time.Millisecond

// Each goroutine has a buffer while it reads. The buffer is large enough for what clients usually send.
var readBuffers = sync.Pool{New: func() any { return new([2 << 10]byte) }}

// readNow reads what is there. The lock orders it after the goroutine that read before.
func (l *listener) readNow() {
	defer guard.Recover(guard.WebSocket, l.onEnd)
	l.mu.Lock()
	stopped := l.stopped
	l.mu.Unlock()
	if stopped {
		return
	}
	buffer := readBuffers.Get().(*[2 << 10]byte)
	goesOn := l.readAll(buffer[:])
	readBuffers.Put(buffer)
	switch {
	case !goesOn:
		l.onEnd()
	case !l.await():
		l.read()
	}
}

// readAll reads until there is nothing more to read, and reports whether more may come later.
func (l *listener) readAll(buffer []byte) (goesOn bool) {
	now := time.Now()
	busy := now.Sub(l.last) < busyTime
	for l.last = now; ; l.last = time.Now() {
		var n int
		var err error
		if busy {
			if err = l.conn.SetReadDeadline(l.last.Add(busyTime)); err == nil {
				n, err = l.conn.Read(buffer)
			}
		} else {
			n, err = readable.Read(l.raw, buffer)
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded): // ours, or one that others set before the connection was hijacked
			return l.conn.SetReadDeadline(time.Time{}) == nil
		case errors.Is(err, readable.ErrNothing):
			return true
		case n > 0 && !l.receive(buffer[:n]), err != nil:
			return false
		case n < len(buffer) && !busy:
			return true
		}
	}
}

// read reads until the connection ends.
func (l *listener) read() {
	defer guard.Recover(guard.WebSocket)
	defer l.onEnd()
	buffer := make([]byte, 512)
	for {
		n, err := l.conn.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) { // as in readAll
			err = l.conn.SetReadDeadline(time.Time{})
		}
		if n > 0 && !l.receive(buffer[:n]) || err != nil {
			return
		}
	}
}

// stop must be called before the connection is closed. A read that has begun still calls receive. If nobody reads, stop
// does not call onEnd.
func (l *listener) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	l.watch.Stop(l.raw)
}
