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

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/direct"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// Handler serves the endpoints by which backends create channels and write messages, and clients read them. What
// it does not serve goes to the next handler, so it can stand beside `reverse_proxy` or `file_server` in any site.
// All sites share the channels.
//
// Backends that keep their connections write at a fraction of the cost on a site of their own: HTTP/1.1 without TLS, no
// access log, and no other handler before this one.
type Handler struct {
	// Which endpoints this site serves: any of
	//
	// * `create`: `POST /create`
	// * `write`: `POST /write/{producerAddress}/{streamId}`, `POST /write-batch` and `POST /write`
	// * `read`: `GET /read/{consumerAddress}`
	// * `exists`: `POST /channelsExists`
	// * `manage`: `GET` and `DELETE /channel/{address}`, a channel's state and its end, for who has one of its
	// addresses
	// * `health`: `GET /health`, for load balancers: status 503 while the server is drained or shuts down
	// * `ui`: a page at `/ui/` to try the other endpoints in a browser, and to watch what they do
	//
	// Whoever reaches `create` can use up the server's limits, so sites that are open to the world should serve
	// `read` only. Default: `create`, `write`, `read` and `exists`.
	Endpoints []string `json:"endpoints,omitempty"`

	// By which transports this site sends messages to its readers: any of `ndjson`, `sse`, `websocket` and `poll`.
	// Default: all four.
	Transports []string `json:"transports,omitempty"`

	// The origins whose pages may use this site from a browser: exact ones such as `https://www.example.com`,
	// `https://*.example.com` for all that have one label more, or `*` for all. Default: none but the site's own.
	CORSOrigins []string `json:"cors_origins,omitempty"`

	// Whether WebSockets are compressed (permessage-deflate, each message by itself) if the client offers it. Messages of
	// 512 bytes and more are, unless more than 64 KiB would be left. That costs CPU time. Default: false.
	Compression bool `json:"websocket_compression,omitempty"`

	app     *App
	logger  *zap.Logger
	direct  direct.Options
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
	for _, name := range orAll(h.Transports, transport.KindNames) {
		h.offers[slices.Index(transport.KindNames, name)] = true
	}
	h.origins = parseOrigins(h.CORSOrigins)
	h.direct = h.directOptions()
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterConnContext(conn.With)
	}
	return nil
}

// directOptions are for writes that do without this handler.
func (h *Handler) directOptions() direct.Options {
	return direct.Options{
		Broker:         h.app.broker,
		Limits:         h.app.limits,
		MaxMessageSize: h.app.MaxMessageSize,
		WriteTimeout:   time.Duration(h.app.WriteTimeout),
		Logger:         h.logger,
		Conns:          &h.app.direct,
		Count:          h.app.registry.metrics.Direct,
		Over:           h.app.isOver,
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

func orAll(chosen, all []string) []string {
	if len(chosen) == 0 {
		return all
	}
	return chosen
}

// validate checks the configuration, before anything is derived from it.
func (h *Handler) validate() error {
	for _, list := range []struct {
		name    string
		values  []string
		without string
	}{
		{"endpoints", h.Endpoints, strings.Join(standardPermissions, ", ")},
		{"transports", h.Transports, strings.Join(transport.KindNames, ", ")},
		{"cors_origins", h.CORSOrigins, "none but the site's own"},
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
	return checkOrigins(h.CORSOrigins)
}

// checkNames checks that each name is a known one and is there once.
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
	t, ok := parseTarget(r.URL)
	if !ok || !h.serves[t.endpoint] {
		return next.ServeHTTP(w, r)
	}
	if len(h.origins.patterns) > 0 && h.origins.handle(w, r, t.endpoint) {
		return nil
	}
	entry := newAccessLogEntry(r, t)
	if err := h.serve(w, r, t, entry); err != nil {
		h.refuse(w, r, entry, err)
	}
	return nil
}

// serve serves a request for an endpoint of this site. If it returns an error, nothing has been sent.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, t target, entry *accessLogEntry) error {
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
	case healthEndpoint:
		return h.serveHealth(w)
	case uiEndpoint:
		return h.serveUI(w, r, t.file)
	default:
		return fmt.Errorf("endpoint %d is not implemented", t.endpoint)
	}
}

// statusClientClosedRequest is what Caddy, too, logs for a client that went away before it got an answer.
const statusClientClosedRequest = 499

// refuse answers a request that failed.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, entry *accessLogEntry, err error) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		w.WriteHeader(statusClientClosedRequest)
		return
	}
	h.noteRefusal(entry, err).Write(w, r)
}

// noteRefusal counts and logs that a request failed, and returns what it is answered.
func (h *Handler) noteRefusal(entry *accessLogEntry, err error) *httpjson.Error {
	e := httpjson.ErrorOf(err)
	entry.code = e.Code
	h.app.registry.metrics.Refused.WithLabelValues(entry.endpoint.String(), e.Code).Inc()
	h.noteLimit(err, 1)
	if e.Status >= http.StatusInternalServerError && e.Cause != nil {
		h.logger.Error("request failed", zap.Stringer("endpoint", entry.endpoint), zap.Error(err))
	} else if c := h.logger.Check(zap.DebugLevel, "request refused"); c != nil {
		c.Write(zap.Stringer("endpoint", entry.endpoint), zap.String("address", broker.RedactAddress(entry.address)),
			zap.String("code", e.Code), zap.String("reason", e.Message))
	}
	return e
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)

// serveHealth tells a load balancer whether new clients should be sent here: not while the server is drained, nor
// in the time that it is given to shut down.
func (h *Handler) serveHealth(w http.ResponseWriter) error {
	if !h.app.registry.healthy() {
		w.Header().Set("Retry-After", strconv.Itoa(httpjson.RetryAfter))
		httpjson.Write(w, http.StatusServiceUnavailable, statusDraining)
		return nil
	}
	httpjson.Write(w, http.StatusOK, httpjson.OK)
	return nil
}

var statusDraining = []byte(`{"status":"DRAINING"}`)
