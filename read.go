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

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/delivery"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
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
	// named asks for server-sent events whose names are their stream ids.
	named bool
	// protocol is the subprotocol of a WebSocket, or "".
	protocol string
}

// follows reports whether the reader follows cursors (protocol.md 2.1).
func (read *readRequest) follows() bool {
	return read.hasCursor || read.kind == transport.KindSSE || read.kind == transport.KindPoll
}

// serveRead sends a channel's messages to its consumer (protocol.md 1.6, 2.1 to 2.5). A read over HTTP/2 waits with this
// function on its stack, which has 8 KiB as long as that is enough. So large locals live in beginRead, which returns before
// net/http needs much of the stack for the header of the response.
func (h *Handler) serveRead(w http.ResponseWriter, r *http.Request, consumer string, entry *accessLogEntry) error {
	o, err := h.beginRead(w, r, consumer, entry)
	if o == nil {
		return err
	}
	if !o.start(w, r) {
		return nil
	}
	defer o.close()
	o.delivery.Deliver()
	return nil
}

// beginRead begins a read, so far that the response can start. It returns nil if that failed, and if the read is done.
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
		if read.protocol, err = h.checkUpgrade(w, r); err != nil {
			return nil, err
		}
	}
	sub, err := h.subscribe(r, read)
	if err != nil {
		return nil, err
	}
	ended, goesOn := func(*accessLogEntry) {}, false
	defer func() {
		if goesOn {
			return
		}
		defer func() { ended(entry) }()
		sub.End(broker.EndFault) // after a panic; only the first call counts
	}()
	ended = h.countRead(read)
	if resume := sub.Resume(); resume != broker.ResumeNone {
		entry.resumed = resume
		w.Header().Set("Megaphone-Resume", string(resume))
	}
	if read.kind == transport.KindPoll {
		h.servePoll(w, r, sub, read.poll, entry)
		return nil, nil
	}
	o := &openRead{handler: h, read: read, entry: entry, ended: ended}
	o.delivery, o.socket = h.newDelivery(w, r, read, sub)
	goesOn = true
	return o, nil
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
		Redeliver:      h.redelivers(read),
	})
	if err != nil && read.kind == transport.KindNDJSON && slices.ContainsFunc(slowedErrors, func(slowed error) bool {
		return errors.Is(err, slowed)
	}) {
		h.app.registry.slowDown(r.Context())
	}
	return sub, err
}

// redelivers reports whether the next read is sent again what this one sends.
func (h *Handler) redelivers(read readRequest) bool {
	return h.Redelivery && read.kind == transport.KindNDJSON && !read.hasCursor
}

// slowedErrors are those after which existing clients repeat a read at once.
var slowedErrors = []error{broker.ErrNotFound, broker.ErrBusy, broker.ErrReaderLimit}

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
func (h *Handler) newTransport(w http.ResponseWriter, r *http.Request, read readRequest, sub broker.Subscription) (transport.Transport, time.Duration) {
	switch read.kind {
	case transport.KindSSE:
		return transport.NewSSE(w, r, read.named, h.bounds(r)), time.Duration(h.app.StreamDuration)
	case transport.KindWebSocket:
		return transport.NewWebSocket(w, r, transport.WebSocketOptions{
			Timeout:     time.Duration(h.app.WriteTimeout),
			Conn:        conn.Of(r),
			Bare:        conn.Bare,
			Compression: h.Compression,
			Protocol:    read.protocol,
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
	if len(query["poll"]) > 1 {
		return read, errTwice
	}
	var err error
	if read.cursor, read.hasCursor, err = parseCursor(r.Header, query); err != nil {
		return read, err
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
		if read.named = query.Get("event") == "sid"; !read.named && query.Has("event") {
			return read, httpjson.BadRequest("event takes only sid, which names each event after its stream id")
		}
	}
	if !h.offers[read.kind] {
		return read, h.notOffered(read.kind)
	}
	return read, nil
}

// errTwice refuses a request that says something twice: nobody knows which one counts, and a wrong cursor would lose
// messages.
var errTwice = httpjson.BadRequest("Last-Event-ID, after, lastEventId and poll may be given once each")

// parseCursor returns the cursor that a request shows, if any (protocol.md 2.2).
func parseCursor(header http.Header, query url.Values) (cursor string, ok bool, err error) {
	// The first of these that is there counts. lastEventId is what polyfills of EventSource add to the address.
	for _, values := range [][]string{header.Values("Last-Event-ID"), query["after"], query["lastEventId"]} {
		switch {
		case len(values) > 1:
			return "", false, errTwice
		case len(values) == 1 && !ok:
			cursor, ok = values[0], true
		}
	}
	return cursor, ok, nil
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

// checkUpgrade checks a request for a WebSocket, before anything else happens. It returns the subprotocol, if there is
// one.
func (h *Handler) checkUpgrade(w http.ResponseWriter, r *http.Request) (protocol string, err error) {
	if status, problem := transport.CheckUpgrade(r); problem != "" {
		w.Header().Set("Sec-WebSocket-Version", "13")
		return "", &httpjson.Error{Status: status, Code: "BAD_REQUEST", Message: problem, Upgrade: status == http.StatusUpgradeRequired}
	}
	if origin := r.Header.Get("Origin"); origin != "" && !sameOrigin(origin, r.Host) && !h.origins.allow(origin) {
		return "", httpjson.Forbidden("pages of this origin may not connect here")
	}
	protocol, ok := transport.SelectProtocol(r, h.Protocols)
	switch {
	case ok:
		return protocol, nil
	case len(h.Protocols) == 0:
		return "", httpjson.BadRequest("this site has no WebSocket subprotocol: offer none, or name yours in its setting websocket_protocols")
	}
	// Those that were offered may hold a secret.
	return "", httpjson.BadRequest("this site has none of the WebSocket subprotocols offered: offer " + strings.Join(h.Protocols, " or ") +
		", or name yours in its setting websocket_protocols")
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
