package megaphone

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/direct"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
	"github.com/caddy-megaphone/megaphone/internal/obstacle"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// Handler serves Megaphone's endpoints: backends create channels and write messages, clients read them. Requests for other
// paths go to the next handler, so it can stand beside `reverse_proxy` or `file_server` in any site. All sites share the
// channels.
//
// Writes cost a fraction on a site for backends only: HTTP/1.1 without TLS, no access log, no other handler before this
// one, and backends that keep their connections open.
type Handler struct {
	// Which endpoints this site serves: any of
	//
	// * `create`: `POST /create`
	// * `write`: `POST /write/{producerAddress}/{streamId}`, `POST /write-batch` and `POST /write`
	// * `read`: `GET /read/{consumerAddress}`
	// * `exists`: `POST /channelsExists`
	// * `manage`: `GET` and `DELETE /channel/{address}` show and delete a channel, for clients that have one of its
	// addresses
	// * `topics`: `PUT`, `GET /topic/{topic}`, `PUT`, `DELETE /topic/{topic}/{producerAddress}` and `POST /topic/{topic}/close`;
	// also `topics` in a `create`. Anyone who can reach it can join any topic, so public sites must not serve it.
	// * `publish`: `POST /publish/{topic}/{streamId}`; also topics in `POST /write`. It does not belong on a public site either.
	// * `health`: `GET /health`, for load balancers: status 503 while the server drains or shuts down
	// * `ui`: the inspector at `/ui/`, a page to try the other endpoints in a browser and to watch what they do
	//
	// Anyone who can reach `create` can use up the server's limits, so public sites should serve `read` only. Default: `create`, `write`, `read` and `exists`.
	Endpoints []string `json:"endpoints,omitempty"`

	// The transports by which this site sends messages to readers: any of `ndjson`, `sse`, `websocket` and `poll`.
	// Default: all four.
	Transports []string `json:"transports,omitempty"`

	// The origins whose pages may use this site from a browser: exact ones such as `https://www.example.com`,
	// `https://*.example.com` for all with one label more, `http://localhost:*` for all ports of a host, or `*` for all.
	// Default: only the site's own origin.
	CORSOrigins []string `json:"cors_origins,omitempty"`

	// The request headers that pages of these origins may set, beside those that Megaphone knows and `Authorization` and
	// `Cache-Control`, which are always allowed. Other handlers of the site, or proxies in front, may need some. Default: none.
	CORSHeaders []string `json:"cors_headers,omitempty"`

	// Whether browsers may send cookies, client certificates and passwords with requests of these origins. It needs exact
	// origins. Megaphone uses no cookies, but another handler of the site may. Default: false.
	CORSCredentials bool `json:"cors_credentials,omitempty"`

	// Whether to compress WebSocket messages for clients that offer permessage-deflate. Each message is compressed by
	// itself, if it has at least 512 bytes and its compressed form has at most 64 KiB. Compression costs CPU time.
	// Default: false.
	Compression bool `json:"websocket_compression,omitempty"`

	// Whether a message of an NDJSON read without a cursor is sent again in the next such read, with the same `eid`. It is
	// settled only when both reads have ended cleanly. Existing clients drop the second copy. Set it where a proxy stands
	// between the clients and this site: the proxy acknowledges what it was sent, and the client may never get it. Such a
	// read ends early once it has sent as many messages as the in-flight window holds, and the client reads again.
	// Redelivery doubles the traffic of these reads. Reads with cursors, SSE, polls and WebSockets do not need it and are
	// not changed. Default: false.
	Redelivery bool `json:"ndjson_redelivery,omitempty"`

	// The WebSocket subprotocols of this site. A client that offers subprotocols gets the first of its own that is among
	// these. A client that offers only others gets status 400. A client that offers none is served in any case. So a client
	// can send a token beside a subprotocol, for example for `forward_auth`. Default: none.
	Protocols []string `json:"websocket_protocols,omitempty"`

	// Whether to serve writes that repeat one another without net/http and Caddy's handlers, where nobody else observes
	// them. This costs a fraction of the CPU time and changes nothing for clients. Turn it off to find out whether it has to
	// do with a fault. Default: true.
	DirectWrites *bool `json:"direct_writes,omitempty"`

	// Whether reads over HTTP/1.1 go on without their handler, where nobody else observes the response. This costs a
	// fraction of the memory and changes nothing for clients. Turn it off to find out whether it has to do with a fault.
	// Default: true.
	DetachedReads *bool `json:"detached_reads,omitempty"`

	app     *App
	topics  broker.Topics // nil if the Broker has none
	logger  *zap.Logger
	direct  *direct.Site  // nil if direct writes are off
	reads   *obstacle.Log // of detached reads; nil if they are off
	serves  [endpointCount]bool
	offers  [transport.KindCount]bool
	origins origins
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.megaphone", New: func() caddy.Module { return new(Handler) }}
}

// Provision implements [caddy.Provisioner].
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	if err := h.validate(); err != nil {
		return err
	}
	app, err := ctx.App("megaphone")
	if err != nil {
		return err
	}
	h.app = app.(*App)
	for _, name := range orAll(h.Endpoints, standardPermissions) {
		for _, e := range permissions[name] {
			h.serves[e] = true
		}
	}
	if err := h.checkTopics(); err != nil {
		return err
	}
	for _, name := range orAll(h.Transports, transport.KindNames) {
		h.offers[slices.Index(transport.KindNames, name)] = true
	}
	h.origins = h.newOrigins()
	if isOn(h.DetachedReads) {
		h.reads = obstacle.NewLog(h.logger, "reads")
	}
	if isOn(h.DirectWrites) {
		h.direct = direct.NewSite(h.directOptions())
	}
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterConnContext(guardHook(conn.With))
		if h.direct != nil {
			server.RegisterConnState(h.direct.Ended)
		}
		server.RegisterOnShutdown(h.app.serverStops)
	}
	return nil
}

// sampleEvery is how many direct writes there are for each one that goes the long way, to be compared.
var sampleEvery = 4096

// directOptions are for writes that bypass this handler.
func (h *Handler) directOptions() direct.Options {
	return direct.Options{
		Broker:         h.app.broker,
		Limits:         h.app.limits,
		MaxMessageSize: h.app.MaxMessageSize,
		WriteTimeout:   time.Duration(h.app.WriteTimeout),
		Logger:         h.logger,
		Conns:          &h.app.direct,
		Count:          h.app.registry.metrics.Direct,
		Waits:          &h.app.registry.sockets,
		Refuse: func(w http.ResponseWriter, r *http.Request, producer string, err error) {
			h.refuse(w, r, &accessLogEntry{endpoint: writeEndpoint, address: producer}, err)
		},
		SampleEvery: sampleEvery,
		Samples:     h.app.registry.metrics.DirectSamples,
		Mismatches:  h.app.registry.metrics.DirectMismatches,
		Over:        h.app.isOver,
		First: func(handler caddyhttp.MiddlewareHandler) direct.Answer {
			other, ok := handler.(*Handler)
			switch {
			case !ok:
				return direct.Unknown
			case other == h:
				return direct.Yes
			case !other.serves[writeEndpoint]:
				return direct.No
			}
			return direct.Unknown
		},
	}
}

// isOn reports the value of a setting that is on unless it is turned off.
func isOn(setting *bool) bool { return setting == nil || *setting }

// orAll returns all names if none was chosen.
func orAll(chosen, all []string) []string {
	if len(chosen) == 0 {
		return all
	}
	return chosen
}

// validate checks the configuration before Provision derives anything from it.
func (h *Handler) validate() error {
	for _, list := range []struct {
		name    string
		values  []string
		without string
	}{
		{"endpoints", h.Endpoints, strings.Join(standardPermissions, ", ")},
		{"transports", h.Transports, strings.Join(transport.KindNames, ", ")},
		{"cors_origins", h.CORSOrigins, "none but the site's own"},
		{"cors_headers", h.CORSHeaders, "none but those that are always allowed"},
		{"websocket_protocols", h.Protocols, "none"},
	} {
		if list.values != nil && len(list.values) == 0 {
			return errEmptyList(list.name, list.without)
		}
	}
	if err := checkNames("endpoint", h.Endpoints, permissionNames); err != nil {
		return err
	}
	if err := checkNames("transport", h.Transports, transport.KindNames); err != nil {
		return err
	}
	if err := checkProtocols(h.Protocols); err != nil {
		return err
	}
	return h.checkCORS()
}

// checkProtocols checks names of WebSocket subprotocols, which are tokens of HTTP (RFC 6455, 4.1).
func checkProtocols(names []string) error {
	for i, name := range names {
		if !httpguts.ValidHeaderFieldName(name) { // a token too
			return fmt.Errorf("%q is not a WebSocket subprotocol: use letters, digits and any of !#$%%&'*+-.^_`|~", name)
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("the WebSocket subprotocol %q is named twice: leave one of them out", name)
		}
	}
	return nil
}

// checkNames checks that each name is known and appears once.
func checkNames(kind string, names, known []string) error {
	for i, name := range names {
		if !slices.Contains(known, name) {
			return fmt.Errorf("there is no %s %q: name any of %s", kind, name, strings.Join(known, ", "))
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("%s %q is named twice: leave one of them out", kind, name)
		}
	}
	return nil
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	var t target
	if !t.find(r) || !h.serves[t.endpoint] {
		return next.ServeHTTP(w, r)
	}
	if r.ProtoMajor == 1 && caddy.Exiting() { // during shutdown_delay; net/http says it later
		w.Header().Set("Connection", "close")
	}
	body := h.app.registry.bodies.Begin(w, r)
	h.serveTarget(w, r, &t)
	body.Finish()
	return nil
}

// serveTarget serves a request for an endpoint of this site.
func (h *Handler) serveTarget(w http.ResponseWriter, r *http.Request, t *target) {
	if len(h.origins.patterns) > 0 && h.origins.handle(w, r, t.endpoint) {
		return
	}
	entry := newAccessLogEntry(r, t)
	defer h.notePanic(r)
	if err := h.serve(w, r, t, entry); err != nil {
		if h.direct != nil {
			h.direct.Refused(r, err)
		}
		h.refuse(w, r, entry, err)
	}
}

// serve serves a request that the other handlers of the site need not see. If it returns an error, it has sent nothing.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, t *target, entry *accessLogEntry) error {
	if err := h.check(r, t); err != nil {
		return err
	}
	switch t.endpoint {
	case createEndpoint:
		return h.serveCreate(w, r)
	case writeEndpoint:
		return h.serveWrite(w, r, t.address, t.streamID, entry)
	case writeBatchEndpoint:
		return h.serveWriteBatch(w, r, entry)
	case ingestEndpoint:
		return h.serveIngest(w, r, entry)
	case readEndpoint:
		return h.serveRead(w, r, t.address, entry)
	case channelsExistEndpoint:
		return h.serveChannelsExist(w, r)
	case manageEndpoint:
		return h.serveManage(w, r, t.address)
	case topicEndpoint, memberEndpoint, closeEndpoint, publishEndpoint:
		return h.serveTopic(w, r, t, entry)
	case healthEndpoint:
		return h.serveHealth(w)
	case uiEndpoint:
		return h.serveUI(w, r, t.file)
	default:
		return fmt.Errorf("endpoint %d is not implemented", t.endpoint)
	}
}

// check refuses a request that is not as its endpoint wants it.
func (h *Handler) check(r *http.Request, t *target) error {
	if t.mistake != "" {
		return h.wrongPath(r, t)
	}
	if methods := t.endpoint.methods(); !slices.Contains(methods, r.Method) {
		message := "this address is for " + strings.Join(methods, " and ") + " only"
		if r.Method == http.MethodConnect {
			message = "WebSockets are served over HTTP/1.1, not over HTTP/2 or HTTP/3"
		}
		return &httpjson.Error{
			Status: http.StatusMethodNotAllowed, Code: "METHOD_NOT_ALLOWED",
			Message: message, Allow: strings.Join(methods, ", "),
		}
	}
	if !t.endpoint.takesBody(r.Method) {
		if err := conn.BodyOf(r).Discard(); err != nil { // a reply would wait for it
			return httpjson.BodyError(err)
		}
	}
	return nil
}

// wrongPath returns the reply to a request with a mistake in its path.
func (h *Handler) wrongPath(r *http.Request, t *target) error {
	if t.endpoint == readEndpoint {
		read := readRequest{consumer: t.address}
		if err := h.parseRead(r, &read); err == nil && read.kind == transport.KindNDJSON {
			h.app.registry.slowDown(r.Context()) // existing clients repeat such a read at once
		}
	}
	return &httpjson.Error{Status: http.StatusNotFound, Code: "NOT_FOUND", Message: "no such path: " + t.mistake}
}

// serveHealth tells a load balancer whether to send new clients here. It does not want them while the server starts, drains
// or shuts down, and while its storage takes no writes.
func (h *Handler) serveHealth(w http.ResponseWriter) error {
	if health := h.app.registry.health(); health != "OK" {
		w.Header().Set("Retry-After", strconv.Itoa(httpjson.RetryAfter))
		httpjson.Write(w, http.StatusServiceUnavailable, []byte(`{"status":"`+health+`"}`))
		return nil
	}
	httpjson.Write(w, http.StatusOK, httpjson.OK)
	return nil
}

// statusClientClosedRequest is what Caddy also logs for a client that left before it got an answer.
const statusClientClosedRequest = 499

// refuse answers a request that failed.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, entry *accessLogEntry, err error) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		w.WriteHeader(statusClientClosedRequest)
		return
	}
	h.noteRefusal(entry, err).Write(w, r)
}

// noteRefusal counts and logs a request that failed, and returns its reply.
func (h *Handler) noteRefusal(entry *accessLogEntry, err error) *httpjson.Error {
	e := httpjson.ErrorOf(err)
	entry.code = e.Code
	h.app.registry.metrics.CountRefusal(entry.endpoint.String(), e.Code)
	h.noteLimit(err, 1)
	if e.Status >= http.StatusInternalServerError && e.Cause != nil {
		h.logger.Error("request failed", zap.Stringer("endpoint", entry.endpoint), zap.Error(err))
	} else if c := h.logger.Check(zap.DebugLevel, "request refused"); c != nil {
		c.Write(zap.Stringer("endpoint", entry.endpoint), zap.String("address", broker.RedactAddress(entry.address)),
			zap.String("topic", entry.topic), zap.String("code", e.Code), zap.String("reason", e.Message))
	}
	return e
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
