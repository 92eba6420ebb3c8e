package megaphone

import (
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/delivery"
	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/socket"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// An openRead is a read that has begun.
type openRead struct {
	handler  *Handler
	delivery *delivery.Delivery
	socket   *transport.WebSocket // nil for another transport
	read     readRequest
	entry    *accessLogEntry
	ended    func(*accessLogEntry) // counts its end
	release  func()                // releases what it holds of the server
}

// start begins the response. It reports whether the handler must wait for the read. Otherwise the read goes on by itself.
func (o *openRead) start(w http.ResponseWriter, r *http.Request) (waits bool) {
	started := false
	defer func() {
		if !started {
			o.abort() // after a panic
		}
	}()
	socket.LimitUnsent(conn.Of(r))
	waits = o.delivery.Start() != nil || !o.detach(w, r)
	if waits {
		o.holdServer(w, r)
	}
	started = true
	return waits
}

// detach lets the read go on by itself, if it can do without its handler.
func (o *openRead) detach(w http.ResponseWriter, r *http.Request) bool {
	app, d := o.handler.app, o.delivery
	// A server that shuts down tells the client that the connection ends, but not the handler.
	if app.isOver() || !o.handler.reads.Try(w, r, func() bool { return d.Detach(w, r) }) {
		return false
	}
	app.registry.sockets.Add(1)
	app.registry.metrics.Detached.Inc()
	app.streams.Add(d)
	own := *o.entry // the other one belongs to the request, which is over
	o.entry, o.release = &own, func() {
		app.registry.sockets.Add(-1)
		app.registry.metrics.Detached.Dec()
		app.streams.Remove(d)
	}
	d.MayPark(o.deliverDetached)
	if !d.Park() {
		go o.deliverDetached()
	}
	return true
}

// holdServer makes a server that shuts down wait for the read, until release is called.
func (o *openRead) holdServer(w http.ResponseWriter, r *http.Request) {
	registry := o.handler.app.registry
	if o.read.kind == transport.KindWebSocket {
		registry.sockets.Add(1)
		o.release = func() { registry.sockets.Add(-1) }
	} else {
		o.release = registry.cutOffWriting(w, r)
	}
}

// newDelivery returns the delivery of a subscription's messages, and its transport if that is a WebSocket.
func (h *Handler) newDelivery(w http.ResponseWriter, r *http.Request, read readRequest, sub broker.Subscription) (*delivery.Delivery, *transport.WebSocket) {
	t, duration := h.newTransport(w, r, read, sub)
	o := delivery.Options{
		Subscription: sub,
		Transport:    t,
		Request:      r,
		Header:       w.Header(),
		Window:       h.app.limits.InFlight,
		Duration:     duration,
		Heartbeat:    time.Duration(h.app.Heartbeat),
		WriteTimeout: time.Duration(h.app.WriteTimeout),
		Unloaded:     h.app.unloaded,
		Follows:      read.follows(),
		Redeliver:    h.redelivers(read),
	}
	if read.kind == transport.KindNDJSON {
		o.Heartbeat, o.Unloaded = 0, nil
	}
	socket, _ := t.(*transport.WebSocket)
	return delivery.New(o), socket
}

// deliverDetached does the work of a handler that has returned, until the read is parked or has ended.
func (o *openRead) deliverDetached() {
	defer guard.Recover(guard.Read) // as net/http does for handlers
	parked := false
	defer func() {
		if !parked {
			o.close()
		}
	}()
	parked = o.delivery.Deliver()
}

// close follows the end of the read.
func (o *openRead) close() {
	defer func() { o.ended(o.entry) }()
	defer o.release()
	o.entry.messages = o.delivery.Sent()
	o.entry.ended(o.delivery.Reason())
	if o.socket != nil {
		o.noteCloseCode(o.socket.CloseCode())
	}
	if c := o.handler.logger.Check(zap.DebugLevel, "read ended"); c != nil {
		c.Write(zap.String("address", broker.RedactAddress(o.read.consumer)), zap.String("transport", o.read.kind.String()),
			zap.Stringer("reason", o.delivery.Reason()), zap.Int("messages", o.delivery.Sent()), o.entry.closeCodeField())
	}
}

// abort ends a read whose start has panicked, and closes its connection if it was hijacked.
func (o *openRead) abort() {
	defer func() { o.ended(o.entry) }()
	if o.release != nil {
		defer o.release()
	}
	o.delivery.Abort()
}
