// Package megaphone pushes events from any backend to browsers and apps, as modules of the Caddy web server. A backend
// creates a channel, hands a client its address to read, and writes messages to it with HTTP POSTs. Megaphone holds the
// long-lived connections, the buffer and the back-pressure.
//
// This package is Megaphone as Caddy modules and their endpoints: [App], [Handler] and [ListenerWrapper]. It reaches channels
// only through the contract of package broker; [MemoryBroker] is the Broker that it uses unless configured otherwise.
package megaphone

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/admin"
	"github.com/caddy-megaphone/megaphone/internal/command"
	"github.com/caddy-megaphone/megaphone/internal/delivery"
	"github.com/caddy-megaphone/megaphone/internal/direct"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

func init() {
	caddy.RegisterModule(new(App))
	caddy.RegisterModule(Handler{})
	admin.Register(func(app any) admin.View { return app.(*App).view() })
	command.Register()
	guard.OnPanic(reportPanic)
}

// App holds the settings of the whole server, and the channels that all sites share. Which requests a site serves is up to
// the `megaphone` handler. Every setting has a default, so the handler alone is enough.
//
// Channels and their messages outlive configuration reloads. With the broker `memory` a restart of the process loses them,
// with the broker `disk` it does not.
type App struct {
	// The first part of every address that this server creates: letters, digits, `_` and `-`. With several servers, give
	// each its own name, by which a load balancer can route. Placeholders such as `{env.POD_NAME}` are supported. Channels
	// that were created under another name stay reachable. Default: `main`.
	Agent string `json:"agent,omitempty"`

	// How many pending messages (not sent to any reader yet) a channel holds before producers wait. Default: 100.
	Buffer int `json:"buffer,omitempty"`

	// How many in-flight messages (sent, not known to be received) a channel keeps for redelivery. A reader that acknowledges
	// is never sent more than these. Default: 100.
	InFlight int `json:"in_flight,omitempty"`

	// How long a producer waits for room in a full channel before it gets status 503. 0 means not at all. Default: 10s.
	Hold *caddy.Duration `json:"hold,omitempty"`

	// How long a channel lives that nobody reads. Default: 1m.
	TTL caddy.Duration `json:"ttl,omitempty"`

	// How long an NDJSON read lasts before it ends and the client reads again. A poll waits at most as long. Default: 20s.
	ReadDuration caddy.Duration `json:"read_duration,omitempty"`

	// How long an SSE stream or a WebSocket lasts before it ends and the client connects again. Default: 10m.
	StreamDuration caddy.Duration `json:"stream_duration,omitempty"`

	// The time between two SSE comments, or two WebSocket pings. Default: 15s.
	Heartbeat caddy.Duration `json:"heartbeat,omitempty"`

	// How long a client may take nothing of what it is sent before it is cut off. Its messages are kept. Default: 10s.
	WriteTimeout caddy.Duration `json:"write_timeout,omitempty"`

	// The largest message, and the largest body of a batch, in bytes; at most 1 GiB. Default: 2 MB (2,000,000).
	MaxMessageSize int64 `json:"max_message_size,omitempty"`

	// How many channels there may be. Beyond, `create` gets status 503. Default: 1,000,000.
	MaxChannels int `json:"max_channels,omitempty"`

	// How many bytes of messages all channels together may hold. Beyond, producers wait as for a full channel.
	// Default: 1 GiB.
	MaxMemory int64 `json:"max_memory,omitempty"`

	// The longest `ttl` that a `create` may ask for. Default: 24h, or `ttl` if that is longer.
	MaxTTL caddy.Duration `json:"max_ttl,omitempty"`

	// How many topics a channel may be a member of. Default: 1000.
	MaxTopics int `json:"max_topics,omitempty"`

	// How many bytes of its newest messages a topic keeps for channels that join later, unless a backend sets something else
	// for the topic. They count toward `max_memory`, each message once. Default: 0, which is none.
	TopicKeep int64 `json:"topic_keep,omitempty"`

	// How long a topic without members keeps its messages after the last one was published. Default: 1h.
	TopicTTL caddy.Duration `json:"topic_ttl,omitempty"`

	// How long messages must wait in a channel that nobody reads until the event `channel_waiting` is reported, if a webhook
	// or a handler wants it. Default: 30s.
	WaitingAfter caddy.Duration `json:"waiting_after,omitempty"`

	// Whether the admin API shows the messages in a channel to callers that ask for them. Default: false.
	InspectMessages bool `json:"inspect_messages,omitempty"`

	// How many channels may have a reader at once. Beyond, a read gets status 503. A reader that takes over a channel is
	// always let in. Default: 100,000.
	MaxReaders int `json:"max_readers,omitempty"`

	// How many live channels one client may have created. A client is an IPv4 address as Caddy knows it (see
	// `trusted_proxies`), or an IPv6 network of 64 bits. Beyond, `create` gets status 429. The limit holds for backends too,
	// so use it where clients create their channels themselves. Default: no limit.
	MaxChannelsPerClient int `json:"max_channels_per_client,omitempty"`

	// URLs to which events of channels are posted. Default: none.
	Webhooks []*Webhook `json:"webhooks,omitempty"`

	// Other names under which metrics are shown as well, for dashboards and alerts of the server that this one replaces. With
	// `true`, these are the seven metrics of the original Megaphone. Otherwise it is an object. A key is an old name. Its
	// value is a metric of this module, such as `caddy_megaphone_channels_created_total`. Under its old name a metric has no
	// labels; it is the sum over them. Default: none.
	MetricsCompat OldNames `json:"metrics_compat,omitzero"`

	// The broker that keeps the channels: a module of the namespace `megaphone.brokers`. Configurations with the same broker
	// share its channels. Default: `memory`, which keeps them in the memory of this process.
	BrokerRaw json.RawMessage `json:"broker,omitempty" caddy:"namespace=megaphone.brokers inline_key=module"`

	ctx    caddy.Context
	logger *zap.Logger
	events *caddyevents.App
	// eventsStarted says that all apps have started, the events app among them. Before that nobody may ask it.
	eventsStarted atomic.Bool
	eventsLogged  bool // the log has all events
	registry      *registry
	broker        broker.Broker
	provider      broker.Provider // has opened broker, or would have
	limits        broker.Limits

	brokerKey string                   // of the registry in registries, if acquired
	acquired  bool                     // whether this App has a reference there
	finishes  bool                     // whether Stop waits for handlers of Caddy's event that no other configuration has
	unloaded  chan struct{}            // closed when another configuration takes the place of this one, or none
	unload    func()                   // closes it
	streams   delivery.DetachedStreams // is told then
	direct    direct.Conns
}

// CaddyModule returns the Caddy module information. Caddy asks for it with each event, while the App may change. So its
// receiver is a pointer: a copy would be a data race.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "megaphone", New: func() caddy.Module { return new(App) }}
}

// Provision implements [caddy.Provisioner].
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.logger, a.unloaded = ctx, ctx.Logger(), make(chan struct{})
	a.unload = sync.OnceFunc(func() {
		close(a.unloaded)
		guard.Go(guard.Exit, a.streams.Wake)
		a.direct.End()
	})
	a.setDefaults()
	var err error
	if a.Agent, err = caddy.NewReplacer().ReplaceOrErr(a.Agent, true, true); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	a.limits = broker.Limits{
		Buffer:      a.Buffer,
		InFlight:    a.InFlight,
		Hold:        time.Duration(*a.Hold),
		TTL:         time.Duration(a.TTL),
		MaxMessage:  a.MaxMessageSize,
		MaxTopics:   a.MaxTopics,
		TopicKeep:   broker.Keep{Bytes: a.TopicKeep, TTL: time.Duration(a.TopicTTL)},
		MaxChannels: a.MaxChannels,
		MaxMemory:   a.MaxMemory,
		MaxReaders:  a.MaxReaders,

		MaxChannelsPerClient: a.MaxChannelsPerClient,
	}

	events, err := ctx.App("events")
	if err != nil {
		return err
	}
	a.events = events.(*caddyevents.App)
	if err := a.events.On("started", &onEvent{a.started}); err != nil {
		return err
	}
	if err := a.events.On("stopping", &onEvent{a.stopping}); err != nil {
		return err
	}

	if err := a.acquireRegistry(ctx); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	if err := a.registry.metrics.Register(ctx.GetMetricsRegistry(), a.limits, a.MetricsCompat); err != nil {
		return err
	}
	if a.MetricsCompat.areOriginal() {
		if err := a.registry.metrics.RegisterOriginal(ctx.GetMetricsRegistry()); err != nil {
			return err
		}
	}
	if err := a.provisionWebhooks(); err != nil {
		return err
	}
	return a.checkWaiting()
}

// view is what the admin API sees.
func (a *App) view() admin.View {
	return admin.View{
		Broker: a.broker, Agent: a.Agent, Limits: a.limits, InspectMessages: a.InspectMessages,
		CloseCode: a.registry.closes.of, Health: a.registry.health(),
	}
}

// isOver reports whether this configuration has been replaced or removed, or the process exits.
func (a *App) isOver() bool {
	if caddy.Exiting() {
		return true
	}
	select {
	case <-a.unloaded:
		return true
	case <-a.registry.closing.Done():
		return true
	default:
		return false
	}
}

// close ends all reads and waits.
func (a *App) close() {
	defer a.direct.End()
	a.registry.Close()
}

// Start implements [caddy.App].
func (a *App) Start() error {
	if err := a.startBroker(); err != nil {
		return err
	}
	a.startEvents()
	return nil
}

const (
	// maxReloadEvents is how long a reload waits for handlers of laterEvents that the new configuration lacks.
	maxReloadEvents = 5 * time.Second
	// maxExitEvents is how long the exit of the process waits for these handlers.
	maxExitEvents = 250 * time.Millisecond
)

// Stop implements [caddy.App]. At the exit the stopping event has ended reads and held writes already. On a reload they go
// on.
func (a *App) Stop() error {
	if a.finishes && !a.finishEvents() {
		a.logger.Warn("handlers of the events that a broker reports are too slow: events are lost")
	}
	return nil
}

// finishEvents waits, within bounds, until handlers of laterEvents have handled all events up to now. It reports
// whether they have. The process may begin to exit meanwhile, and then waits for this.
func (a *App) finishEvents() bool {
	limit := time.NewTimer(maxReloadEvents)
	defer limit.Stop()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	reached := a.registry.later.mark()
	for exits := false; ; {
		if !exits && caddy.Exiting() {
			exits = true
			limit.Reset(a.registry.exitTime(maxExitEvents))
		}
		select {
		case <-reached:
			return true
		case <-a.registry.later.done:
			return true
		case <-limit.C:
			return false
		case <-look.C:
		}
	}
}

// Cleanup implements [caddy.CleanerUpper].
func (a *App) Cleanup() error {
	if !a.acquired {
		return nil
	}
	a.acquired = false
	a.unload()
	if caddy.Exiting() {
		a.registry.awaitSockets()
	}
	last, err := registries.Delete(a.brokerKey)
	a.stopEvents()
	if last {
		a.warnOfUndelivered()
	}
	return err
}

// warnOfUndelivered logs what was lost when the Broker was closed.
func (a *App) warnOfUndelivered() {
	defer guard.Recover(guard.Broker)
	if broker.IsKept(a.broker) {
		return
	}
	if n := broker.StatsOf(a.broker).Undelivered[broker.EndClosed]; n > 0 {
		a.logger.Warn("channels were deleted with messages in them; those that had been sent may have arrived", zap.Uint64("undelivered", n))
	}
}

// onEvent calls a function for one of Caddy's events.
type onEvent struct{ do func() }

// Handle implements [caddyevents.Handler].
func (h *onEvent) Handle(context.Context, caddy.Event) error {
	h.do()
	return nil
}

// started handles Caddy's event of that name: all apps have started.
func (a *App) started() {
	a.eventsLogged = a.ctx.Logger(a.events).Core().Enabled(zap.DebugLevel)
	a.eventsStarted.Store(true)
}

// stopping handles Caddy's event of that name: apps are about to be stopped. On a reload it leaves the channels to the next
// configuration and tells streams to move there. If no configuration follows, or the process exits, it ends all reads and
// waits, for the http app waits for open requests, by default for ever. With a shutdown_delay, serverStops does so after the
// delay, because sites are served until then. Meanwhile each reply over HTTP/1.1 ends its connection, so that clients leave.
func (a *App) stopping() {
	exits := caddy.Exiting() // which may happen in the middle of a reload
	if !exits {
		a.unload()
	}
	if a.handOverEvents() && !exits {
		guard.Go(guard.Exit, a.watchExit)
		return
	}
	if app, err := a.ctx.AppIfConfigured("http"); err == nil && exits {
		if delay := time.Duration(app.(*caddyhttp.App).ShutdownDelay); delay > 0 {
			a.direct.End()
			a.closeAfter(delay + maxExit) // if no server stops
			return
		}
	}
	a.close()
}

// watchExit ends all reads if the process begins to exit after the stopping event of a reload. Otherwise the http app would
// wait for this configuration's reads, and the exit for the reload. It returns when all apps have stopped.
func (a *App) watchExit() {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-look.C:
			if caddy.Exiting() {
				a.registry.Close()
				return
			}
		}
	}
}

// Interface guards.
var (
	_ caddy.App           = (*App)(nil)
	_ caddy.Provisioner   = (*App)(nil)
	_ caddy.Validator     = (*App)(nil)
	_ caddy.CleanerUpper  = (*App)(nil)
	_ caddyevents.Handler = (*onEvent)(nil)
)
