// Package megaphone pushes events from any backend to browsers and apps, as a module of the Caddy web server. A
// backend creates a channel, hands a client its address to read, and writes messages to it with HTTP POSTs; the
// module holds the long-lived connections, the buffer and the back-pressure.
//
// The package has two parts. The engine ([Broker], [Registry], [Message]) keeps channels and knows neither HTTP
// nor Caddy. The Caddy modules [App] and [Handler] make it a server.
package megaphone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(App{})
	caddy.RegisterModule(Handler{})
}

// App pushes events from any backend to browsers and apps: it keeps the channels that all sites share. Its
// settings hold for the whole server; which requests a site serves is up to the `megaphone` handler. Without
// any settings, the handler alone is enough.
//
// Channels and their messages outlive configuration reloads. They live in memory: a restart of the process
// loses them.
type App struct {
	// The first part of the address of every channel that this server creates: letters, digits, `_` and `-`.
	// With several servers, give each a name of its own, by which a load balancer can route. Placeholders are
	// supported, such as `{env.POD_NAME}`. Channels that were created under another name stay reachable.
	// Default: `main`.
	Agent string `json:"agent,omitempty"`

	// How many messages that no reader has been sent yet a channel holds before producers wait. Default: 100.
	Buffer int `json:"buffer,omitempty"`

	// How many messages that were sent, but are not known to have been received, a channel keeps to send again.
	// Default: 100.
	InFlight int `json:"in_flight,omitempty"`

	// How long a producer waits for room in a full channel before it is refused with status 503. 0 refuses at
	// once. Default: 10s.
	Hold *caddy.Duration `json:"hold,omitempty"`

	// How long a channel lives that nobody reads. Default: 1m.
	TTL caddy.Duration `json:"ttl,omitempty"`

	// How long a read lasts before it ends and the client reads again. Default: 20s.
	ReadDuration caddy.Duration `json:"read_duration,omitempty"`

	// How long a stream of server-sent events or a WebSocket lasts before it ends and the client connects again.
	// Default: 10m.
	StreamDuration caddy.Duration `json:"stream_duration,omitempty"`

	// How often a stream of server-sent events gets a comment, and a WebSocket a ping. Default: 15s.
	Heartbeat caddy.Duration `json:"heartbeat,omitempty"`

	// How long a client may take nothing of what it is sent before it is cut off. Its messages are kept. Default: 10s.
	WriteTimeout caddy.Duration `json:"write_timeout,omitempty"`

	// The largest message, and the largest body of a batch, in bytes. Default: 2 MB (2,000,000).
	MaxMessageSize int64 `json:"max_message_size,omitempty"`

	// How many channels there may be. Beyond, none is created and the reply is status 503. Default: 1,000,000.
	MaxChannels int `json:"max_channels,omitempty"`

	// How many bytes of messages all channels may hold together. Beyond, producers wait as for a full channel.
	// Default: 1 GiB.
	MaxMemory int64 `json:"max_memory,omitempty"`

	ctx    caddy.Context
	logger *zap.Logger
	shared *shared
	broker Broker
	limits Limits

	acquired bool          // whether this App has a reference in the pool
	unloaded chan struct{} // closed when another configuration takes the place of this one, or none
	unload   func()        // closes it
}

// shared is what outlives configurations: the channels, and what is counted over all of them.
type shared struct {
	*Registry

	slowed  atomic.Int32 // clients that wait in slowDown
	sockets atomic.Int32 // open WebSockets, which Caddy does not wait for when it exits
}

// pool holds the one shared under poolKey, which is the same whatever the settings are.
var pool = caddy.NewUsagePool()

const poolKey = "memory"

// Destruct implements [caddy.Destructor]. It is called when the last configuration is gone.
func (s *shared) Destruct() error {
	s.Close()
	return nil
}

// maxFarewell is how long the exit of the process waits for WebSockets to be closed.
const maxFarewell = 500 * time.Millisecond

// awaitSockets waits until all WebSockets are closed, within bounds.
func (s *shared) awaitSockets() {
	for deadline := time.Now().Add(maxFarewell); s.sockets.Load() > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "megaphone", New: func() caddy.Module { return new(App) }}
}

// Provision implements [caddy.Provisioner].
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.logger, a.unloaded = ctx, ctx.Logger(), make(chan struct{})
	a.unload = sync.OnceFunc(func() { close(a.unloaded) })
	if err := a.setDefaults(); err != nil {
		return err
	}
	a.limits = Limits{
		Buffer:      a.Buffer,
		InFlight:    a.InFlight,
		Hold:        time.Duration(*a.Hold),
		TTL:         time.Duration(a.TTL),
		MaxChannels: a.MaxChannels,
		MaxMemory:   a.MaxMemory,
	}

	events, err := ctx.App("events")
	if err != nil {
		return err
	}
	if err := events.(*caddyevents.App).On("stopping", &stopping{a}); err != nil {
		return err
	}

	pooled, _, err := pool.LoadOrNew(poolKey, func() (caddy.Destructor, error) {
		return &shared{Registry: NewRegistry()}, nil
	})
	if err != nil {
		return err
	}
	a.shared, a.acquired = pooled.(*shared), true
	a.broker = a.shared.Registry
	return nil
}

// setDefaults fills in what is not configured.
func (a *App) setDefaults() error {
	if a.Agent == "" {
		a.Agent = "main"
	}
	agent, err := caddy.NewReplacer().ReplaceOrErr(a.Agent, true, true)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	a.Agent = agent
	if a.Hold == nil {
		hold := caddy.Duration(10 * time.Second)
		a.Hold = &hold
	}
	setDefault(&a.Buffer, 100)
	setDefault(&a.InFlight, 100)
	setDefault(&a.TTL, caddy.Duration(time.Minute))
	setDefault(&a.ReadDuration, caddy.Duration(20*time.Second))
	setDefault(&a.StreamDuration, caddy.Duration(10*time.Minute))
	setDefault(&a.Heartbeat, caddy.Duration(15*time.Second))
	setDefault(&a.WriteTimeout, caddy.Duration(10*time.Second))
	setDefault(&a.MaxMessageSize, 2_000_000)
	setDefault(&a.MaxChannels, 1_000_000)
	setDefault(&a.MaxMemory, 1<<30)
	return nil
}

func setDefault[T comparable](setting *T, value T) {
	var unset T
	if *setting == unset {
		*setting = value
	}
}

// Validate implements [caddy.Validator].
func (a *App) Validate() error {
	if err := checkAgent(a.Agent); err != nil {
		return fmt.Errorf("agent %w", err)
	}
	if *a.Hold < 0 {
		return errors.New("hold must not be negative")
	}
	for _, setting := range []struct {
		name     string
		positive bool
	}{
		{"buffer", a.Buffer > 0},
		{"in_flight", a.InFlight > 0},
		{"ttl", a.TTL > 0},
		{"read_duration", a.ReadDuration > 0},
		{"stream_duration", a.StreamDuration > 0},
		{"heartbeat", a.Heartbeat > 0},
		{"write_timeout", a.WriteTimeout > 0},
		{"max_message_size", a.MaxMessageSize > 0},
		{"max_channels", a.MaxChannels > 0},
		{"max_memory", a.MaxMemory > 0},
	} {
		if !setting.positive {
			return fmt.Errorf("%s must be greater than zero; leave it out for the default", setting.name)
		}
	}
	return nil
}

func checkAgent(name string) error {
	if !ValidAgent(name) {
		return fmt.Errorf("%q is no name for a server: use letters, digits, _ and - only", name)
	}
	return nil
}

// Start implements [caddy.App].
func (a *App) Start() error { return nil }

// Stop implements [caddy.App]. Reads and held writes have been ended by the stopping event, if the process is
// exiting; on a reload they go on.
func (a *App) Stop() error { return nil }

// Cleanup implements [caddy.CleanerUpper].
func (a *App) Cleanup() error {
	if !a.acquired {
		return nil
	}
	a.acquired = false
	a.unload()
	if caddy.Exiting() {
		a.shared.awaitSockets()
	}
	last, err := pool.Delete(poolKey)
	if last {
		if n := a.shared.Undelivered(); n > 0 {
			a.logger.Warn("messages were not delivered before their channels were deleted", zap.Int("undelivered", n))
		}
	}
	return err
}

// stopping handles Caddy's event of that name, which comes before any app is stopped.
type stopping struct{ app *App }

// Handle ends all reads and waits if the process is about to exit: the http app waits for open requests then,
// by default for ever. With a shutdown_delay, sites are served until it is over. On a reload, streams are told.
func (s *stopping) Handle(context.Context, caddy.Event) error {
	if !caddy.Exiting() {
		s.app.unload()
		return nil
	}
	if app, err := s.app.ctx.AppIfConfigured("http"); err == nil {
		if delay := time.Duration(app.(*caddyhttp.App).ShutdownDelay); delay > 0 {
			time.AfterFunc(delay, s.app.shared.Close)
			return nil
		}
	}
	s.app.shared.Close()
	return nil
}

// Handler serves the endpoints by which backends create channels and write messages, and clients read them. What
// it does not serve goes to the next handler, so it can stand beside `reverse_proxy` or `file_server` in any site.
// All sites share the channels.
type Handler struct {
	// Which endpoints this site serves: any of
	//
	// * `create`: `POST /create`
	// * `write`: `POST /write/{producerAddress}/{streamId}`, `POST /write-batch` and `POST /write`
	// * `read`: `GET /read/{consumerAddress}`
	// * `exists`: `POST /channelsExists`
	//
	// Whoever reaches `create` can use up the server's limits, so sites that are open to the world should serve
	// `read` only. Default: all four.
	Endpoints []string `json:"endpoints,omitempty"`

	// By which transports this site sends messages to its readers: any of `ndjson`, `sse`, `websocket` and `poll`.
	// Default: all four.
	Transports []string `json:"transports,omitempty"`

	// The origins whose pages may use this site from a browser: exact ones such as `https://www.example.com`,
	// `https://*.example.com` for all that have one label more, or `*` for all. Default: none but the site's own.
	CORSOrigins []string `json:"cors_origins,omitempty"`

	// Whether WebSockets are compressed (permessage-deflate) if the client offers it. That costs some hundred KB
	// of memory for each. Default: false.
	Compression bool `json:"websocket_compression,omitempty"`

	app     *App
	logger  *zap.Logger
	serves  [endpointCount]bool
	offers  [transportCount]bool
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
	for _, name := range orAll(h.Endpoints, permissionNames) {
		for _, e := range permissions[name] {
			h.serves[e] = true
		}
	}
	for _, name := range orAll(h.Transports, transportNames) {
		h.offers[slices.Index(transportNames, name)] = true
	}
	h.origins = parseOrigins(h.CORSOrigins)
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterConnContext(func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, caddyhttp.ConnCtxKey, conn)
		})
	}
	return nil
}

func orAll(chosen, all []string) []string {
	if len(chosen) == 0 {
		return all
	}
	return chosen
}

// validate checks the configuration, before anything is derived from it.
func (h *Handler) validate() error {
	if err := checkNames("endpoint", h.Endpoints, permissionNames); err != nil {
		return err
	}
	if err := checkNames("transport", h.Transports, transportNames); err != nil {
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
			return fmt.Errorf("%s %q is named twice", kind, name)
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
	if err := h.serve(w, r, t); err != nil {
		h.refuse(w, r, t, err)
	}
	return nil
}

// serve serves a request for an endpoint of this site. If it returns an error, nothing has been sent.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, t target) error {
	if methods := t.endpoint.methods(); !slices.Contains(methods, r.Method) {
		message := "this address is for " + strings.Join(methods, " and ") + " only"
		if r.Method == http.MethodConnect {
			message = "WebSockets are served over HTTP/1.1, not over HTTP/2 or HTTP/3"
		}
		return &apiError{
			status: http.StatusMethodNotAllowed, code: "METHOD_NOT_ALLOWED",
			message: message, allow: strings.Join(methods, ", "),
		}
	}
	switch t.endpoint {
	case createEndpoint:
		return h.serveCreate(w, r)
	case writeEndpoint:
		return h.serveWrite(w, r, t.address, t.streamID)
	case writeBatchEndpoint:
		return h.serveWriteBatch(w, r)
	case ingestEndpoint:
		return h.serveIngest(w, r)
	case readEndpoint:
		return h.serveRead(w, r, t.address)
	case channelsExistEndpoint:
		return h.serveChannelsExist(w, r)
	}
	return fmt.Errorf("endpoint %d is not implemented", t.endpoint)
}

// statusClientClosedRequest is what Caddy, too, logs for a client that went away before it got an answer.
const statusClientClosedRequest = 499

// refuse answers a request that failed.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, t target, err error) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		w.WriteHeader(statusClientClosedRequest)
		return
	}
	e := toAPIError(err)
	if e.status >= http.StatusInternalServerError && e.cause != nil {
		h.logger.Error("request failed", zap.Stringer("endpoint", t.endpoint), zap.Error(err))
	} else if c := h.logger.Check(zap.DebugLevel, "request refused"); c != nil {
		c.Write(zap.Stringer("endpoint", t.endpoint), zap.String("address", RedactAddress(t.address)),
			zap.String("code", e.code), zap.String("reason", e.message))
	}
	e.write(w)
}

// Interface guards.
var (
	_ caddy.App                   = (*App)(nil)
	_ caddy.Provisioner           = (*App)(nil)
	_ caddy.Validator             = (*App)(nil)
	_ caddy.CleanerUpper          = (*App)(nil)
	_ caddyevents.Handler         = (*stopping)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
