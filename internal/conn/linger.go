package conn

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// A client may still be sending its request when it is refused. If the server closed the connection then, the system would
// send a reset, which can destroy the reply before the client has read it. Many clients read the reply only once they have
// sent everything. So the server reads on, and discards what it reads, within these limits. The connection is closed when
// one is reached.
const (
	// maxLinger is how long that may take in all.
	maxLinger = 30 * time.Second
	// maxLingerPause is how long the client may send nothing.
	maxLingerPause = 5 * time.Second
	// maxLingerBytes is how many bytes are discarded.
	maxLingerBytes = 64 << 20
	// MaxExitLinger takes the place of the times above when the process exits.
	MaxExitLinger = 100 * time.Millisecond
)

// maxKeepAlive is the largest rest of a body, in bytes, for which a connection of HTTP/1 is kept. It is read before the
// reply, as net/http does.
const maxKeepAlive = 256 << 10

// BeginReply prepares for the reply to a refused request. It reports whether the reply must end the connection: the rest of
// the body would follow on it. It is false for HTTP/2 and HTTP/3, where a reply ends only its stream.
func (b *Body) BeginReply() (last bool) {
	if b == nil || b.r.ProtoMajor != 1 {
		return false
	}
	if 0 < b.r.ContentLength && b.r.ContentLength <= maxKeepAlive && b.r.Header.Get("Expect") == "" {
		b.discard(maxLingerPause)
	}
	if errors.Is(b.err, io.EOF) {
		return false
	}
	// Otherwise net/http would read some of the body before it sends the reply.
	b.early = http.NewResponseController(b.w).EnableFullDuplex() == nil
	return true
}

// ErrTooLong is the error of [Body.Discard] for a body that is not worth being read to its end.
var ErrTooLong = errors.New("the body is too long")

// Discard reads the rest of the body of HTTP/1, which the handler does not need. The error is nil if it has seen its end.
func (b *Body) Discard() error {
	if b == nil || b.r.ProtoMajor != 1 {
		return nil
	}
	b.discard(maxLinger)
	switch {
	case errors.Is(b.err, io.EOF):
		return nil
	case b.err == nil:
		return ErrTooLong
	}
	return b.err
}

// discard discards the rest of the body, or what comes of it within a limit.
func (b *Body) discard(limit time.Duration) { discard(b, b.setReadDeadline, limit) }

// buffers are for what is discarded.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// discard discards what it reads from r, until the end, an error, or a limit.
func discard(r io.Reader, setDeadline func(time.Time), limit time.Duration) {
	buffer := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buffer)
	end := time.Now().Add(limit)
	for discarded := 0; discarded < maxLingerBytes; {
		deadline := time.Now().Add(maxLingerPause)
		if deadline.After(end) {
			deadline = end
		}
		setDeadline(deadline)
		n, err := r.Read(buffer[:])
		if discarded += n; err != nil {
			return
		}
	}
}

// Finish ends the use of the body, after the handler has replied. If the client still sends it, Finish reads on, so that
// the reply reaches the client.
func (b *Body) Finish() {
	if b == nil {
		return
	}
	b.r.Body = b.inner
	if b.r.ProtoMajor == 1 && !errors.Is(b.err, io.EOF) {
		b.finish()
	}
	*b = Body{}
	bodyPool.Put(b)
}

func (b *Body) finish() {
	if b.early && b.flush() {
		b.linger()
		return
	}
	if b.Discard() == nil {
		return
	}
	b.setReadDeadline(past) // for net/http, which would read on
	if !b.isGone() {
		// net/http waits for the client before it closes the connection only if it was told that the body is too large.
		_, _ = http.MaxBytesReader(Innermost(b.w), io.NopCloser(oneByte{}), 0).Read(make([]byte, 1))
	}
}

// isGone reports whether the client is gone. net/http ends the context after each failure to read from the connection.
func (b *Body) isGone() bool {
	return b.r.Context().Err() != nil && !errors.Is(b.err, os.ErrDeadlineExceeded) && !b.bodies.ended.Load()
}

// oneByte is a reader that has something to read.
type oneByte struct{}

func (oneByte) Read(p []byte) (int, error) { return len(p), nil }

// flush sends the reply. It reports false if it may not be complete, because another handler of the site changes it or
// holds it back.
func (b *Body) flush() bool {
	return b.w.Header().Get("Content-Length") != "" && isTransparent(b.w) && http.NewResponseController(b.w).Flush() == nil
}

// linger discards what the client sends after the reply, until the client closes the connection, and then closes it. It
// reads from the connection: the body may be malformed, or larger than another handler allows. net/http reads nothing from
// the connection before the end of the body.
func (b *Body) linger() {
	c := Of(b.r)
	if c == nil {
		b.discard(maxLinger)
		b.setReadDeadline(past)
		return
	}
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	b.raw = c
	b.begin()
	defer func() {
		b.end()
		_ = c.Close() // net/http would read on
	}()
	discard(c, func(t time.Time) {
		if !b.bodies.ended.Load() { // otherwise cut sets the deadline
			_ = c.SetReadDeadline(t)
		}
	}, maxLinger)
}
