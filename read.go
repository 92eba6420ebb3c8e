package megaphone

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/delivery"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
	"github.com/caddy-megaphone/megaphone/internal/socket"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// A readRequest is what a request on /read asks for.
type readRequest struct {
	consumer string
	kind     transport.Kind
	// cursor is what the client has, if hasCursor: it knows of cursors, even with an empty one.
	cursor    string
	hasCursor bool
	// poll is how long a poll waits.
	poll time.Duration
}

// serveRead sends a channel's messages to its consumer (protocol.md 1.6, 2.1 to 2.5). A read over HTTP/2 waits with
// this function's frame on its stack, which has 8 KiB as long as that is enough. So it leaves to others what needs room.
func (h *Handler) serveRead(w http.ResponseWriter, r *http.Request, consumer string, entry *accessLogEntry) error {
	o, err := h.openRead(w, r, consumer, entry)
	if o == nil {
		return err
	}
	defer o.close()
	o.delivery.Deliver()
	return nil
}

// An openRead is a read that has begun.
type openRead struct {
	handler  *Handler
	delivery *delivery.Delivery
	read     readRequest
	entry    *accessLogEntry
	ended    func(*accessLogEntry) // counts its end
	release  func()                // lets go what it holds of the server
}

// openRead begins a read. It returns nil if there was an error, or if the read is nothing to wait for: it is done, or has
// been detached from its handler.
func (h *Handler) openRead(w http.ResponseWriter, r *http.Request, consumer string, entry *accessLogEntry) (*openRead, error) {
	read, err := h.parseRead(r, consumer)
	entry.transport = read.kind.String()
	if err != nil {
		return nil, err
	}
	if r.Method == http.MethodHead {
		return nil, h.serveReadHead(w, r, read)
	}
	if read.kind == transport.KindWebSocket {
		if err := h.checkUpgrade(w, r); err != nil {
			return nil, err
		}
	}
	follows := read.hasCursor || read.kind == transport.KindSSE || read.kind == transport.KindPoll
	sub, err := h.app.broker.Subscribe(r.Context(), consumer, broker.SubscribeOptions{
		Limits:       h.app.limits,
		Follow:       follows,
		After:        read.cursor,
		TakeOver:     read.hasCursor || read.kind == transport.KindSSE,
		Acknowledged: read.kind == transport.KindPoll,

		MayAcknowledge: read.kind == transport.KindWebSocket,
	})
	if err != nil {
		if read.kind == transport.KindNDJSON && (errors.Is(err, broker.ErrNotFound) || errors.Is(err, broker.ErrBusy) || errors.Is(err, broker.ErrReaderLimit)) {
			h.app.registry.slowDown(r.Context())
		}
		return nil, err
	}
	ended := h.countRead(read)
	goesOn := false
	defer func() {
		if !goesOn {
			sub.End(broker.EndFault) // of a panic; the first call counts
			ended(entry)
		}
	}()
	if resume := sub.Resume(); resume != broker.ResumeNone {
		entry.resumed = resume
		w.Header().Set("Megaphone-Resume", string(resume))
	}
	if read.kind == transport.KindPoll {
		defer h.app.registry.cutOffWriting(w, r)()
		h.servePoll(w, r, sub, read.poll, entry)
		return nil, nil
	}
	o := &openRead{handler: h, delivery: h.newDelivery(w, r, read.kind, sub, follows), read: read, entry: entry, ended: ended}
	waits := o.start(w, r)
	goesOn = true
	return waits, nil
}

// start begins the response. If the read can do without its handler, it goes on by itself and start returns nil.
func (o *openRead) start(w http.ResponseWriter, r *http.Request) *openRead {
	app, f := o.handler.app, o.delivery
	socket.LimitUnsent(conn.Of(r))
	// A server that shuts down tells the client that the connection ends, but not the handler.
	if f.Start() == nil && !app.isOver() && f.Detach(w, r) {
		app.registry.sockets.Add(1)
		app.registry.metrics.Detached.Inc()
		app.streams.Add(f)
		own := *o.entry // the other one belongs to the request, which is over
		o.entry, o.release = &own, func() {
			app.registry.sockets.Add(-1)
			app.registry.metrics.Detached.Dec()
			app.streams.Remove(f)
		}
		f.MayPark(o.deliverDetached)
		if !f.Park() {
			go o.deliverDetached()
		}
		return nil
	}
	if o.read.kind == transport.KindWebSocket {
		app.registry.sockets.Add(1)
		o.release = func() { app.registry.sockets.Add(-1) }
	} else {
		o.release = app.registry.cutOffWriting(w, r)
	}
	return o
}

// newDelivery returns the delivery of a subscription's messages.
func (h *Handler) newDelivery(w http.ResponseWriter, r *http.Request, kind transport.Kind, sub broker.Subscription, follows bool) *delivery.Delivery {
	t, duration := h.newTransport(w, r, kind, sub)
	o := delivery.Options{
		Subscription: sub,
		Transport:    t,
		Request:      r,
		Window:       h.app.limits.InFlight,
		Duration:     duration,
		Heartbeat:    time.Duration(h.app.Heartbeat),
		WriteTimeout: time.Duration(h.app.WriteTimeout),
		Unloaded:     h.app.unloaded,
		Follows:      follows,
	}
	if kind == transport.KindNDJSON {
		o.Heartbeat, o.Unloaded = 0, nil
	}
	return delivery.New(o)
}

// deliverDetached does the work of a handler that has returned, until the read is parked or has ended.
func (o *openRead) deliverDetached() {
	parked := false
	defer func() {
		if fault := recover(); fault != nil { // as net/http does for handlers
			o.handler.logger.Error("a read failed", zap.Any("panic", fault), zap.StackSkip("stack", 1))
		}
		if !parked {
			o.close()
		}
	}()
	parked = o.delivery.Deliver()
}

// close follows the end of the read.
func (o *openRead) close() {
	o.entry.messages = o.delivery.Sent()
	o.entry.ended(o.delivery.Reason())
	if c := o.handler.logger.Check(zap.DebugLevel, "read ended"); c != nil {
		c.Write(zap.String("address", broker.RedactAddress(o.read.consumer)), zap.String("transport", o.read.kind.String()),
			zap.Stringer("reason", o.delivery.Reason()), zap.Int("messages", o.delivery.Sent()))
	}
	o.release()
	o.ended(o.entry)
}

// serveReadHead answers a HEAD request, which consumes nothing.
func (h *Handler) serveReadHead(w http.ResponseWriter, r *http.Request, read readRequest) error {
	if _, err := h.app.broker.State(r.Context(), read.consumer); err != nil {
		return err
	}
	contentType := transport.NDJSONType
	if read.kind == transport.KindSSE {
		contentType = transport.SSEType
	}
	transport.SetStreamHeader(w.Header(), contentType)
	w.WriteHeader(http.StatusOK)
	return nil
}

// newTransport returns how messages leave, and for how long.
func (h *Handler) newTransport(w http.ResponseWriter, r *http.Request, kind transport.Kind, sub broker.Subscription) (transport.Transport, time.Duration) {
	switch kind {
	case transport.KindSSE:
		return transport.NewSSE(w, r, h.bounds(r)), time.Duration(h.app.StreamDuration)
	case transport.KindWebSocket:
		return transport.NewWebSocket(w, r, transport.WebSocketOptions{
			Timeout:     time.Duration(h.app.WriteTimeout),
			Conn:        conn.Of(r),
			Bare:        conn.Bare,
			Compression: h.Compression,
			Acknowledge: func(id string) {
				event, _ := broker.ParseEventID(id)
				sub.Settle(event)
			},
		}), time.Duration(h.app.StreamDuration)
	default:
		return transport.NewNDJSON(w, r, h.bounds(r)), time.Duration(h.app.ReadDuration)
	}
}

// bounds says how long a client may take nothing.
func (h *Handler) bounds(r *http.Request) transport.Bounds {
	return transport.Bounds{Timeout: conn.WriteTimeout(r, time.Duration(h.app.WriteTimeout)), Conn: conn.Of(r), Exit: h.app.registry.closing.Done()}
}

// parseRead reads what a request on /read asks for.
func (h *Handler) parseRead(r *http.Request, consumer string) (readRequest, error) {
	read := readRequest{consumer: consumer}
	var query url.Values
	if r.URL.RawQuery != "" {
		query = r.URL.Query()
	}
	lastEventID := r.Header.Values("Last-Event-ID")
	if len(query["after"]) > 1 || len(query["poll"]) > 1 || len(lastEventID) > 1 {
		// Which of them counts is not known, and a wrong cursor would lose messages.
		return read, httpjson.BadRequest("after, poll and Last-Event-ID may be given once each")
	}
	if query.Has("after") {
		read.cursor, read.hasCursor = query.Get("after"), true
	}
	if len(lastEventID) > 0 {
		read.cursor, read.hasCursor = lastEventID[0], true
	}
	switch {
	case transport.IsUpgrade(r):
		read.kind = transport.KindWebSocket
	case query.Has("poll"):
		read.kind = transport.KindPoll
		wait, err := caddy.ParseDuration(query.Get("poll"))
		if err != nil || wait < 0 {
			return read, httpjson.BadRequest("poll takes how long to wait for a message, such as 0, 5s or 20s")
		}
		read.poll = min(wait, time.Duration(h.app.ReadDuration))
	case transport.PrefersSSE(r.Header.Values("Accept"), h.offers):
		read.kind = transport.KindSSE
	}
	if !h.offers[read.kind] {
		return read, h.notOffered(read.kind)
	}
	return read, nil
}

// notOffered is the reply to a request for a transport that this site does not offer.
func (h *Handler) notOffered(kind transport.Kind) error {
	var offered []string
	for k, name := range transport.KindNames {
		if h.offers[k] {
			offered = append(offered, name)
		}
	}
	e := &httpjson.Error{
		Status: http.StatusNotAcceptable, Code: "NOT_ACCEPTABLE",
		Message: fmt.Sprintf("%s is not offered here; there is %s", kind, strings.Join(offered, ", ")),
	}
	switch {
	case kind == transport.KindWebSocket:
		e.Status = http.StatusNotFound
	case kind == transport.KindPoll:
		e.Status = http.StatusBadRequest
	case slices.Equal(offered, []string{transport.KindWebSocket.String()}):
		e.Status, e.Upgrade = http.StatusUpgradeRequired, true
	}
	return e
}

// checkUpgrade checks a request for a WebSocket before anything is done for it.
func (h *Handler) checkUpgrade(w http.ResponseWriter, r *http.Request) error {
	if status, problem := transport.CheckUpgrade(r); problem != "" {
		w.Header().Set("Sec-WebSocket-Version", "13")
		return &httpjson.Error{Status: status, Code: "BAD_REQUEST", Message: problem, Upgrade: status == http.StatusUpgradeRequired}
	}
	if origin := r.Header.Get("Origin"); origin != "" && !sameOrigin(origin, r.Host) && !h.origins.allow(origin) {
		return &httpjson.Error{Status: http.StatusForbidden, Code: "FORBIDDEN", Message: "pages of this origin may not connect here"}
	}
	return nil
}

// maxPoll is how many bytes of lines the reply to a poll has, but for the last line.
const maxPoll = 1 << 20

// servePoll answers a poll with what there is, as soon as there is anything (protocol.md 2.5).
func (h *Handler) servePoll(w http.ResponseWriter, r *http.Request, sub broker.Subscription, wait time.Duration, entry *accessLogEntry) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var lines [][]byte
	for waiting := wait > 0; ; {
		ms, _ := sub.Take(nil, maxPoll)
		for _, m := range ms {
			lines = append(lines, m.Line())
		}
		if len(lines) > 0 || !waiting {
			break
		}
		select {
		case <-sub.Ready():
		case <-sub.Done():
			waiting = false
		case <-timer.C:
			waiting = false
		case <-r.Context().Done():
			entry.ended(transport.Broken)
			return
		}
	}
	entry.messages = len(lines)
	entry.ended(transport.Complete)
	if err := sub.Err(); err != nil && len(lines) == 0 {
		entry.ended(delivery.ReasonOf(err))
	}
	// Given free before the reply: the client's next poll may come before this call returns.
	sub.End(broker.EndClean)
	transport.WritePoll(w, r, lines, h.bounds(r))
}
