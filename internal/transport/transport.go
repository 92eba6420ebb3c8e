// Package transport holds the ways in which messages leave the server. A transport knows how to frame events and write
// them to one client. It knows nothing of channels, and the loop that feeds it knows nothing of framing.
package transport

import (
	"errors"
	"maps"
	"net"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// A Transport carries events to one client. Only one goroutine may use it at a time.
type Transport interface {
	// Start shows the client that the read has begun, before there is an event to send.
	Start() error

	// Append adds an event to those that the next Flush sends. The line is the event as NDJSON, with its line feed. The
	// line is shared: nobody may change it until Flush returns. After that, the transport does not keep it.
	Append(id uuid.UUID, line []byte)

	// Flush sends the appended events, in as few writes as possible. It fails when the client has taken nothing for the
	// time that a write may take. After an error, only End may be called.
	Flush() error

	// Heartbeat shows the client, and everything in between, that the read is still open.
	Heartbeat() error

	// Gone is closed when the client has gone, or has sent something that ends the read.
	Gone() <-chan struct{}

	// End ends the read. With [Broken], the client can see that the end is not clean.
	End(why Reason)
}

// A Detachable is a [Transport] that can continue without the handler of its request.
type Detachable interface {
	Transport

	// Detach makes the transport independent of the request's handler, and reports whether it did. If it did, the handler
	// may return. Call Detach after Start, with the request and its connection. From then on, gone is called in its own
	// goroutine when Gone is closed. It must not panic.
	Detach(r *http.Request, conn net.Conn, gone func()) bool
}

// A Reason says why a read ends.
type Reason int

const (
	// Complete means that the read has lasted as long as it may.
	Complete Reason = iota
	// GoingAway means that the server stops, or that another configuration serves from now on.
	GoingAway
	// Deleted means that the channel was deleted.
	Deleted
	// TakenOver means that another consumer now reads the channel.
	TakenOver
	// Broken means that the client has gone, takes nothing, or sends something that the server does not understand.
	Broken
)

// String returns the reason's name in logs.
func (r Reason) String() string {
	return [...]string{"complete", "going_away", "deleted", "taken_over", "broken"}[r]
}

// streamHeader asks everything between here and the client to pass each event on at once. `Incremental` (RFC 10036) is
// for Caddy's encode and reverse_proxy, which otherwise hold the header back until the first byte. `no-transform`
// prevents compression. `X-Accel-Buffering` is for nginx.
var streamHeader = http.Header{
	"Cache-Control":     {"no-store, no-transform"},
	"Incremental":       {"?1"},
	"X-Accel-Buffering": {"no"},
}

// SetStreamHeader sets the header of a response that is a stream.
func SetStreamHeader(h http.Header, contentType string) {
	maps.Copy(h, streamHeader)
	h.Set("Content-Type", contentType)
}

// Bounds say how long a client may take nothing. If it takes longer, the transport gives the client up.
type Bounds struct {
	// Timeout is the time after which a write fails.
	Timeout time.Duration
	// Conn is the connection of the response, or nil if it is unknown. On HTTP/2, a failed write returns only when the
	// connection takes the end of the stream. So a connection that takes nothing for the timeout once more is closed.
	Conn net.Conn
	// Exit is closed when the process exits. The process must not wait for clients.
	Exit <-chan struct{}
}

// A response is a stream to a client, with a bound on each write.
type response struct {
	w       http.ResponseWriter
	control *http.ResponseController
	gone    <-chan struct{}
	bounds  Bounds
	version int  // of HTTP
	shares  bool // other streams use the same connection
	hangUp  *time.Timer

	taken *connection // in place of w and control, once the response is detached
}

func newResponse(w http.ResponseWriter, r *http.Request, bounds Bounds) response {
	return response{
		w: w, control: http.NewResponseController(w), gone: r.Context().Done(), bounds: bounds,
		version: r.ProtoMajor, shares: r.ProtoMajor == 2 && bounds.Conn != nil,
	}
}

// Detach implements [Detachable].
func (r *response) Detach(request *http.Request, conn net.Conn, gone func()) bool {
	taken, ok := takeOver(r.w, request, conn, gone)
	if ok {
		r.taken, r.gone = taken, taken.watch.gone
		r.w, r.control = nil, nil
	}
	return ok
}

// Gone implements [Transport].
func (r *response) Gone() <-chan struct{} { return r.gone }

// maxPiece is how many bytes a client must take within the timeout. So a large message does not end the read of a slow
// client. maxPiece is not smaller because existing clients need whole lines in a chunk. Caddy writes no larger chunks.
const maxPiece = 64 << 10

// start sends the header.
func (r *response) start() error {
	r.w.WriteHeader(http.StatusOK)
	if err := r.arm(); err != nil {
		return err
	}
	return r.flush()
}

// write sends p as one flush.
func (r *response) write(p []byte) error {
	if err := r.put(p); err != nil {
		return err
	}
	return r.flush()
}

// put writes p, which flush sends.
func (r *response) put(p []byte) error {
	if r.taken != nil {
		r.taken.put(p)
		return nil
	}
	for len(p) > 0 {
		if err := r.arm(); err != nil {
			return err
		}
		n, err := r.w.Write(p[:min(maxPiece, len(p))]) //nolint:gosec // JSON in a stream that is not HTML
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// flush sends what was put, within the deadline that arm has set, and then removes the deadline. On HTTP/2, a deadline
// that passes would reset the stream even if nothing is being written. On HTTP/1, the end of the response would fail.
func (r *response) flush() error {
	if r.taken != nil {
		return r.taken.flush(r.bounds.Timeout)
	}
	if err := r.control.Flush(); err != nil {
		return err
	}
	if r.hangUp != nil {
		r.hangUp.Stop()
	}
	return r.setDeadline(time.Time{})
}

// arm sets the deadline for the next write and flush.
func (r *response) arm() error {
	switch {
	case !r.shares:
	case r.hangUp == nil:
		r.hangUp = time.AfterFunc(2*r.bounds.Timeout, func() {
			defer guard.Recover(guard.Connection)
			_ = r.bounds.Conn.Close()
		})
	default:
		r.hangUp.Reset(2 * r.bounds.Timeout)
	}
	return r.setDeadline(time.Now().Add(r.bounds.Timeout))
}

func (r *response) setDeadline(t time.Time) error {
	if err := r.control.SetWriteDeadline(t); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// End implements [Transport]. With [Broken], the end must not look clean. So End sets a deadline that has passed:
// HTTP/1 then cannot send the terminating chunk, and HTTP/2 and HTTP/3 reset the stream.
//
// The server writes the end after the handler has returned, and waits for that write without a limit. So End makes sure
// that the write takes no longer than a message may take.
func (r *response) End(why Reason) {
	if r.taken != nil {
		r.taken.end(why, r.bounds.Timeout)
		return
	}
	if r.hangUp != nil {
		r.hangUp.Stop()
	}
	if r.version == 1 && why != Broken {
		r.awaitRoom()
	}
	if why == Broken {
		_ = r.control.SetWriteDeadline(time.Unix(1, 0))
	}
	if r.shares && !socket.HasRoom(r.bounds.Conn) {
		guard.Go(guard.Connection, func() { closeStalled(r.bounds) }, func() { _ = r.bounds.Conn.Close() })
	}
}

// awaitRoom waits within bounds until there is room for more, and then sets a deadline for the end of the response. The
// process may exit meanwhile, which shortens the wait and the deadline. Even without room for more, the end may fit.
func (r *response) awaitRoom() {
	limit := r.bounds.Timeout
	if r.bounds.Conn != nil && !socket.AwaitRoom(r.bounds.Conn, limit, r.bounds.Exit) && isClosed(r.bounds.Exit) {
		limit = socket.MaxExitWrite
	}
	_ = r.setDeadline(time.Now().Add(limit)) // net/http removes it
}

// closeStalled closes a connection that takes nothing within bounds.
func closeStalled(b Bounds) {
	if !socket.AwaitRoom(b.Conn, b.Timeout, b.Exit) {
		_ = b.Conn.Close()
	}
}
