// Package transport holds the ways in which messages leave the server. A transport knows how events are framed
// and written to one client; it knows nothing of channels, and the loop that feeds it nothing of framing.
package transport

import (
	"errors"
	"maps"
	"net"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// A Transport carries events to one client. It is for one goroutine at a time.
type Transport interface {
	// Start tells the client that the read has begun, before there is an event to send.
	Start() error

	// Append adds an event to those that the next Flush sends. The line is the event as NDJSON, with its line
	// feed. It is shared: nobody may change it until Flush returns, and after that it is not kept.
	Append(id uuid.UUID, line []byte)

	// Flush sends the appended events, in as few writes as can be. It fails when the client has taken nothing
	// for the time that a write may take. After an error only End may be called.
	Flush() error

	// Heartbeat tells the client, and everything in between, that the read still lasts.
	Heartbeat() error

	// Gone is closed when the client has gone, or has said something that ends the read.
	Gone() <-chan struct{}

	// End ends the read. With [Broken] the client is made to see that the end is not a clean one.
	End(why Reason)
}

// A Detachable is a [Transport] that may go on without the handler of its request.
type Detachable interface {
	Transport

	// Detach makes the transport independent of the request's handler, which may return then, and reports whether it
	// did. It is to be called after Start, with the request and its connection. From then on gone is called, in a
	// goroutine of its own, when Gone is closed.
	Detach(r *http.Request, conn net.Conn, gone func()) bool
}

// A Reason says why a read ends.
type Reason int

const (
	// Complete means that the read has lasted as long as it may.
	Complete Reason = iota
	// GoingAway means that the server stops, or another configuration serves from now on.
	GoingAway
	// Deleted means that the channel is no more.
	Deleted
	// TakenOver means that another consumer reads now.
	TakenOver
	// Broken means that the client has gone, does not take what it is sent, or is not understood.
	Broken
)

// String is the reason's name in logs.
func (r Reason) String() string {
	return [...]string{"complete", "going_away", "deleted", "taken_over", "broken"}[r]
}

// streamHeader tells everything between here and the client to pass each event on at once:
// `Incremental` (RFC 10036) is for Caddy's encode and reverse_proxy, which otherwise hold the header back until
// the first byte, `no-transform` keeps compression off, `X-Accel-Buffering` is for nginx.
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

// Bounds say how long a client may take nothing.
type Bounds struct {
	// Timeout is after what time a write fails.
	Timeout time.Duration
	// Conn is the connection of the response, or nil if it is not known. On HTTP/2, a write that has failed returns only
	// when the connection takes the end of the stream, so one that takes nothing for the timeout again is closed.
	Conn net.Conn
	// Exit is closed when the process exits, which is not to wait for clients.
	Exit <-chan struct{}
}

// A response is a stream to a client, with a bound on each write.
type response struct {
	w       http.ResponseWriter
	control *http.ResponseController
	gone    <-chan struct{}
	bounds  Bounds
	version int  // of HTTP
	shares  bool // the connection, with other streams
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

// maxPiece is how many bytes a client must take within the timeout. So one that is slow but takes something is not
// given up over a large message. It is not smaller because existing clients need whole lines in a chunk, and Caddy
// writes no larger ones.
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
		n, err := r.w.Write(p[:min(maxPiece, len(p))]) //nolint:gosec // JSON in a stream that is no HTML
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// flush sends what was put, within the deadline that is armed. This is not left armed: on HTTP/2 it would reset the stream when it passes even if
// nothing is being written, and on HTTP/1 the end of the response would fail.
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
		r.hangUp = time.AfterFunc(2*r.bounds.Timeout, func() { _ = r.bounds.Conn.Close() })
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

// End implements [Transport]. If the response is broken off, the end must not look clean: with a deadline that has passed,
// HTTP/1 cannot send the terminating chunk, and HTTP/2 and HTTP/3 reset the stream.
//
// The server writes the end when the handler has returned, and waits for that as long as it takes. So End sees to it that
// it takes no longer than a message may.
func (r *response) End(why Reason) {
	if r.taken != nil {
		r.taken.end(why, r.bounds.Timeout)
		return
	}
	if r.hangUp != nil {
		r.hangUp.Stop()
	}
	if r.version == 1 && why != Broken {
		_ = r.arm() // net/http takes it back
		if r.bounds.Conn != nil && !socket.AwaitRoom(r.bounds.Conn, r.bounds.Timeout, r.bounds.Exit) {
			why = Broken
		}
	}
	if why == Broken {
		_ = r.control.SetWriteDeadline(time.Unix(1, 0))
	}
	if r.shares && !socket.HasRoom(r.bounds.Conn) {
		go closeStalled(r.bounds)
	}
}

// closeStalled closes a connection that takes nothing within bounds.
func closeStalled(b Bounds) {
	if !socket.AwaitRoom(b.Conn, b.Timeout, b.Exit) {
		_ = b.Conn.Close()
	}
}
