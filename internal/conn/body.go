package conn

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// Bodies are the request bodies that handlers read. [Bodies.End] ends all reads of them, those in progress too, so that no
// client can hold up the exit of the process. Any number of goroutines may use Bodies.
type Bodies struct {
	err    error
	ended  atomic.Bool
	shards [16]bodyShard
}

// A bodyShard holds some of the bodies of which a Read is in progress. There are several, so that requests need not wait
// for each other.
type bodyShard struct {
	mu    sync.Mutex
	first *Body
	_     [48]byte // to the end of a cache line
}

// NewBodies returns Bodies whose reads fail with err after End.
func NewBodies(err error) *Bodies { return &Bodies{err: err} }

// End ends all reads, now and from now on.
func (s *Bodies) End() {
	if s.ended.CompareAndSwap(false, true) {
		s.cut()
	}
}

// cut ends the reads in progress. It does so again until there are none: another handler may be about to set a deadline
// too.
func (s *Bodies) cut() {
	reading := false
	for i := range s.shards {
		shard := &s.shards[i]
		shard.mu.Lock() // until the deadline is set: a handler may not return before that
		for b := shard.first; b != nil; b = b.next {
			reading = b.cut() || reading
		}
		shard.mu.Unlock()
	}
	if reading {
		time.AfterFunc(10*time.Millisecond, s.cut)
	}
}

// A Body is the body of a request, as its handler reads it. Only the handler's goroutine may use it.
type Body struct {
	bodies *Bodies
	w      http.ResponseWriter
	r      *http.Request
	inner  io.ReadCloser
	err    error     // of the next Read
	left   int64     // how many bytes are not read; below 0 if that is unknown
	early  bool      // the reply came, or comes, before the end of the body
	raw    net.Conn  // while it is read instead of the body
	until  time.Time // when reading raw ends, once the process exits

	shard      *bodyShard
	prev, next *Body
}

var bodyPool = sync.Pool{New: func() any { return new(Body) }}

// Begin replaces the body of a request by a [Body]. The handler must call [Body.Finish] after it has replied. Begin returns
// nil if the request has no body; all methods of a nil Body do nothing.
func (s *Bodies) Begin(w http.ResponseWriter, r *http.Request) *Body {
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	b := bodyPool.Get().(*Body)
	*b = Body{bodies: s, w: w, r: r, inner: r.Body, left: r.ContentLength}
	r.Body = b
	return b
}

// BodyOf returns the Body of a request, or nil if [Bodies.Begin] has not replaced its body.
func BodyOf(r *http.Request) *Body {
	b, _ := r.Body.(*Body)
	return b
}

// Read implements [io.Reader]. Once a Read has failed, all others do.
func (b *Body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.read(p)
	if err != nil && !errors.Is(err, io.EOF) && b.bodies.ended.Load() {
		err = b.bodies.err
	}
	b.err = err
	if b.left -= int64(n); b.left == 0 && err == nil {
		b.err = io.EOF
	}
	return n, err
}

// read reads once, in a way that Bodies.End can end. Other handlers may have wrapped the body, and may panic.
func (b *Body) read(p []byte) (int, error) {
	b.begin()
	defer b.end()
	return b.inner.Read(p)
}

// Close implements [io.Closer]. It does nothing: see [Body.Finish].
func (b *Body) Close() error { return nil }

// begin makes Bodies.End end the read that follows.
func (b *Body) begin() {
	b.shard = &b.bodies.shards[rand.Uint32()%uint32(len(b.bodies.shards))] //nolint:gosec // only spreads load
	b.shard.mu.Lock()
	defer b.shard.mu.Unlock()
	b.prev, b.next = nil, b.shard.first
	if b.next != nil {
		b.next.prev = b
	}
	b.shard.first = b
	if b.bodies.ended.Load() {
		b.cut()
	}
}

// end undoes begin. After the end of the body, net/http reads on to notice when the client goes, and would take the
// deadline of End for that.
func (b *Body) end() {
	b.shard.mu.Lock()
	defer b.shard.mu.Unlock()
	if b.next != nil {
		b.next.prev = b.prev
	}
	if b.prev != nil {
		b.prev.next = b.next
	} else {
		b.shard.first = b.next
	}
}

// cut ends the read in progress, and reports whether it could. Other handlers may have wrapped the writer, and may panic. The
// caller holds the lock.
func (b *Body) cut() (done bool) {
	defer guard.Recover(guard.Exit)
	if b.raw != nil {
		if b.until.IsZero() {
			b.until = time.Now().Add(MaxExitLinger)
		}
		_ = b.raw.SetReadDeadline(b.until)
		return true
	}
	b.setReadDeadline(past)
	return true
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// setReadDeadline sets the deadline for reading the body. Any goroutine may call it while the handler runs.
//
// Caddy's reader keeps the deadlines of a request's body, and has to be told. It takes a deadline that somebody has set
// below it for its own, and removes it when it passes. Then net/http would read what is left of the body without a limit
// before it sends the reply.
func (b *Body) setReadDeadline(t time.Time) {
	if keeper, _ := caddyhttp.IdleTimeoutsFromContext(b.r.Context()); keeper != nil {
		_ = keeper.SetReadDeadline(t)
		return
	}
	_ = http.NewResponseController(Innermost(b.w)).SetReadDeadline(t)
}
