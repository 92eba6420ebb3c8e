package megaphone

import (
	"cmp"
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
	"github.com/caddy-megaphone/megaphone/internal/obstacle"
	"github.com/caddy-megaphone/megaphone/internal/socket"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// A readRequest is what a request on /read asks for.
type readRequest struct {
	consumer string
	kind     transport.Kind
	// hasCursor says that the client knows of cursors. Then cursor is the last event that it has; it may be empty.
	hasCursor bool
	cursor    string
	// poll is how long a poll waits.
	poll time.Duration
}

// follows reports whether the reader follows cursors (protocol.md 2.1).
func (read *readRequest) follows() bool {
	return read.hasCursor || read.kind == transport.KindSSE || read.kind == transport.KindPoll
}

// serveRead sends a channel's messages to its consumer (protocol.md 1.6, 2.1 to 2.5). A read over HTTP/2 waits with this
// function on its stack, which has 8 KiB as long as that is enough. So large locals live in beginRead.
func (h *Handler) serveRead(w http.ResponseWriter, r *http.Request, consumer string, entry *accessLogEntry) error {
	o, err := h.beginRead(w, r, consumer, entry)
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
	release  func()                // releases what it holds of the server
}

// beginRead begins a read. It returns nil if that failed, and if the handler need not wait for the read: it is done, or
// goes on without the handler.
func (h *Handler) beginRead(w http.ResponseWriter, r *http.Request, consumer string, entry *accessLogEntry) (*openRead, error) {
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
	sub, err := h.subscribe(r, read)
	if err != nil {
		return nil, err
	}
	ended := h.countRead(read)
	goesOn := false
	defer func() {
		if !goesOn {
			sub.End(broker.EndFault) // in case of a panic; only the first call counts
			ended(entry)
		}
	}()
	if resume := sub.Resume(); resume != broker.ResumeNone {
		entry.resumed = resume
		w.Header().Set("Megaphone-Resume", string(resume))
	}
	if read.kind == transport.KindPoll {
		h.servePoll(w, r, sub, read.poll, entry)
		return nil, nil
	}
	o := &openRead{handler: h, delivery: h.newDelivery(w, r, read, sub), read: read, entry: entry, ended: ended}
	waits := o.start(w, r)
	goesOn = true
	return waits, nil
}

// subscribe makes the request the reader of its channel.
func (h *Handler) subscribe(r *http.Request, read readRequest) (broker.Subscription, error) {
	sub, err := h.app.broker.Subscribe(r.Context(), read.consumer, broker.SubscribeOptions{
		Limits:       h.app.limits,
		Follow:       read.follows(),
		After:        read.cursor,
		TakeOver:     read.hasCursor || read.kind == transport.KindSSE,
		Acknowledged: read.kind == transport.KindPoll,

		MayAcknowledge: read.kind == transport.KindWebSocket,
	})
	if err != nil && read.kind == transport.KindNDJSON && slices.ContainsFunc(slowedErrors, func(slowed error) bool {
		return errors.Is(err, slowed)
	}) {
		h.app.registry.slowDown(r.Context())
	}
	return sub, err
}

// slowedErrors are those after which existing clients repeat a read at once.
var slowedErrors = []error{broker.ErrNotFound, broker.ErrBusy, broker.ErrReaderLimit}

// start begins the response. If the read can do without its handler, it goes on by itself and start returns nil.
func (o *openRead) start(w http.ResponseWriter, r *http.Request) *openRead {
	app, d := o.handler.app, o.delivery
	socket.LimitUnsent(conn.Of(r))
	// A server that shuts down tells the client that the connection ends, but not the handler.
	if d.Start() == nil && !app.isOver() && o.detach(w, r) {
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

// detach makes the read independent of its handler, and reports whether it did.
func (o *openRead) detach(w http.ResponseWriter, r *http.Request) bool {
	log := o.handler.reads
	if log == nil {
		return false
	}
	if o.delivery.Detach(w, r) {
		log.Bypassed(r)
		return true
	}
	reason, detail := obstacle.Of(w, r)
	log.Kept(r, cmp.Or(reason, obstacle.Fault), detail)
	return false
}

// newDelivery returns the delivery of a subscription's messages.
func (h *Handler) newDelivery(w http.ResponseWriter, r *http.Request, read readRequest, sub broker.Subscription) *delivery.Delivery {
	t, duration := h.newTransport(w, r, read.kind, sub)
	o := delivery.Options{
		Subscription: sub,
		Transport:    t,
		Request:      r,
		Window:       h.app.limits.InFlight,
		Duration:     duration,
		Heartbeat:    time.Duration(h.app.Heartbeat),
		WriteTimeout: time.Duration(h.app.WriteTimeout),
		Unloaded:     h.app.unloaded,
		Follows:      read.follows(),
	}
	if read.kind == transport.KindNDJSON {
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

// serveReadHead answers a HEAD request. It consumes nothing.
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

// newTransport returns the transport that was asked for, and how long it lasts.
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

// bounds limit how long a client may take nothing.
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
		// Nobody knows which one counts, and a wrong cursor would lose messages.
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

// notOffered returns the reply to a request for a transport that this site does not offer.
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

// checkUpgrade checks a request for a WebSocket, before anything else happens.
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

// maxPoll is how many bytes of lines the reply to a poll has before its last line.
const maxPoll = 1 << 20

// servePoll answers a poll with the messages that there are, as soon as there is one (protocol.md 2.5).
func (h *Handler) servePoll(w http.ResponseWriter, r *http.Request, sub broker.Subscription, wait time.Duration, entry *accessLogEntry) {
	defer h.app.registry.cutOffWriting(w, r)()
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
	// The channel must be free before the reply: the client's next poll may come before this call returns.
	sub.End(broker.EndClean)
	transport.WritePoll(w, r, lines, h.bounds(r))
}
