package transport

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/readable"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// A listener reads what the client of a WebSocket says. Where the system tells when a socket can be read, no goroutine
// waits for that.
type listener struct {
	conn net.Conn
	hear func(p []byte) (more bool) // is called for what is read, one call after the other; it may change p
	over func()                     // is called after the last

	mu      sync.Mutex
	raw     syscall.RawConn // nil if a goroutine must wait
	watch   readable.Watch
	watched bool // it has begun
	stopped bool

	last    time.Time      // when the client said something
	reading sync.WaitGroup // goroutines that were begun at the start
}

// listen begins to listen. The socket is nil if the connection is more than one. Something may have been read before.
func (l *listener) listen(bare net.Conn, early []byte) {
	l.raw = socket.Raw(bare)
	switch {
	case len(early) > 0:
		l.reading.Go(func() {
			if !l.hear(early) {
				l.over()
			} else if !l.await() {
				l.read()
			}
		})
	case !l.await():
		l.reading.Go(l.read)
	}
}

// await reports whether Readable will be called.
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

// busyTime is how long a goroutine waits for a client that has just said something twice within that time. So one that
// acknowledges all the time costs no more than with a goroutine of its own, and one that answers pings has none.
const busyTime = 500 * time.Millisecond

// Each of those that read at the moment has a buffer, which is large enough for what clients say.
var readBuffers = sync.Pool{New: func() any { return new([2 << 10]byte) }}

// readNow reads what there is. The lock orders it behind whoever read before.
func (l *listener) readNow() {
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
		l.over()
	case !l.await():
		l.read()
	}
}

// readAll reads until there is nothing more, and reports whether there may be later.
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
		case errors.Is(err, os.ErrDeadlineExceeded): // or one that others have set before the connection was taken over
			return l.conn.SetReadDeadline(time.Time{}) == nil
		case errors.Is(err, readable.ErrNothing):
			return true
		case n > 0 && !l.hear(buffer[:n]), err != nil:
			return false
		case n < len(buffer) && !busy:
			return true
		}
	}
}

// read reads to the end.
func (l *listener) read() {
	defer l.over()
	buffer := make([]byte, 512)
	for {
		n, err := l.conn.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) { // as in readAll
			err = l.conn.SetReadDeadline(time.Time{})
		}
		if n > 0 && !l.hear(buffer[:n]) || err != nil {
			return
		}
	}
}

// stop must be called before the connection is closed. What is being read is still heard. If nobody reads, over is not called.
func (l *listener) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	l.watch.Stop(l.raw)
}
