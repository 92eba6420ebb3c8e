// Package megaphone pushes events from any backend to browsers and apps, as a module of the Caddy web server. A
// backend creates a channel, hands a client its address to read, and writes messages to it with HTTP POSTs; the
// module holds the long-lived connections, the buffer and the back-pressure.
//
// The package has two parts. The engine ([broker.Broker], [memory.Broker], [broker.Message]) keeps channels and knows neither HTTP
// nor Caddy. The Caddy modules [App] and [Handler] make it a server.
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
)

func init() {
	caddy.RegisterModule(new(App))
	caddy.RegisterModule(Handler{})
	admin.Register(func(app any) admin.View { return app.(*App).view() })
	command.Register()
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

	// How many messages that were sent, but are not known to have been received, a channel keeps to send again. A client
	// that acknowledges is never sent more than these. Default: 100.
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

	// The largest message, and the largest body of a batch, in bytes; at most 1 GiB. Default: 2 MB (2,000,000).
	MaxMessageSize int64 `json:"max_message_size,omitempty"`

	// How many channels there may be. Beyond, none is created and the reply is status 503. Default: 1,000,000.
	MaxChannels int `json:"max_channels,omitempty"`

	// How many bytes of messages all channels may hold together. Beyond, producers wait as for a full channel.
	// Default: 1 GiB.
	MaxMemory int64 `json:"max_memory,omitempty"`

	// Whether the admin API shows the messages that a channel holds, to who asks for them. Default: false.
	InspectMessages bool `json:"inspect_messages,omitempty"`

	// How many channels may be read at once. Beyond, a read gets status 503; who takes over a channel from its
	// reader is always let in. Default: 100,000.
	MaxReaders int `json:"max_readers,omitempty"`

	// How many live channels there may be that one client has created, told by its IP address as Caddy knows it
	// (see `trusted_proxies`), or by its network of 64 bits for IPv6. Beyond, its request to create one gets status
	// 429. It holds for backends too, so use it where clients create their channels themselves. Default: no limit.
	MaxChannelsPerClient int `json:"max_channels_per_client,omitempty"`

	// Who is told by HTTP requests what happens to channels. Default: nobody.
	Webhooks []*Webhook `json:"webhooks,omitempty"`

	// Metrics that are shown under another name too, as dashboards and alerts know them from the server that this one
	// replaces. The key is the old name, the value the metric of this module, such as
	// `caddy_megaphone_channels_created_total`. The old one has no labels: what has some here is summed over them.
	// Default: none.
	MetricsCompat map[string]string `json:"metrics_compat,omitempty"`

	// Which broker keeps the channels: a module of the namespace `megaphone.brokers`. Configurations with the same broker
	// share its channels. Default: `memory`, which keeps them in this process.
	BrokerRaw json.RawMessage `json:"broker,omitempty" caddy:"namespace=megaphone.brokers inline_key=module"`

	ctx    caddy.Context
	logger *zap.Logger
	events *caddyevents.App
	// eventsStarted tells that all apps have started, so the one of events too: until then it cannot be asked.
	eventsStarted atomic.Bool
	eventsLogged  bool // the log has all events
	registry      *registry
	broker        broker.Broker
	limits        broker.Limits

	brokerKey string                   // of the registry in registries, if acquired
	acquired  bool                     // whether this App has a reference there
	finishes  bool                     // whether Stop waits for handlers of Caddy's event that no other configuration has
	unloaded  chan struct{}            // closed when another configuration takes the place of this one, or none
	unload    func()                   // closes it
	streams   delivery.DetachedStreams // is told then
	direct    direct.Conns
}

// CaddyModule returns the Caddy module information. Caddy asks for it with each event, while the App may change, so it
// must not be called on a copy.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "megaphone", New: func() caddy.Module { return new(App) }}
}

// Provision implements [caddy.Provisioner].
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.logger, a.unloaded = ctx, ctx.Logger(), make(chan struct{})
	a.unload = sync.OnceFunc(func() {
		close(a.unloaded)
		go a.streams.Wake()
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
	return a.provisionWebhooks()
}

// view is what the admin API sees.
func (a *App) view() admin.View {
	return admin.View{
		Broker: a.broker, Agent: a.Agent, Limits: a.limits, InspectMessages: a.InspectMessages, Healthy: a.registry.healthy(),
	}
}

// isOver reports whether another configuration has taken the place of this one, or none, or the process exits.
func (a *App) isOver() bool {
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
	a.registry.Close()
	a.direct.End()
}

// Start implements [caddy.App].
func (a *App) Start() error {
	a.startEvents()
	return nil
}

const (
	// maxReloadEvents is how long a reload waits for handlers of Caddy's event that the new configuration lacks.
	maxReloadEvents = 5 * time.Second
	// maxExitEvents is how long the exit of the process waits for them.
	maxExitEvents = 250 * time.Millisecond
)

// Stop implements [caddy.App]. Reads and held writes have been ended by the stopping event, if this is the end; on a
// reload they go on.
func (a *App) Stop() error {
	if a.finishes && !a.finishDeletions() {
		a.logger.Warn("handlers of the event megaphone.channel_deleted are too slow: events are lost")
	}
	return nil
}

// finishDeletions waits until handlers of Caddy's event were told what was deleted until now, within bounds, and reports
// whether they were. The process may be told to exit meanwhile, which waits for this.
func (a *App) finishDeletions() bool {
	limit := time.NewTimer(maxReloadEvents)
	defer limit.Stop()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	reached := a.registry.deletions.mark()
	for exits := false; ; {
		if !exits && caddy.Exiting() {
			exits = true
			limit.Reset(a.registry.exitTime(maxExitEvents))
		}
		select {
		case <-reached:
			return true
		case <-a.registry.deletions.done:
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
		if n := a.registry.stats().Undelivered[broker.EndClosed]; n > 0 {
			a.logger.Warn("channels were deleted with messages in them; those that had been sent may have arrived", zap.Uint64("undelivered", n))
		}
	}
	return err
}

// onEvent handles one of Caddy's events.
type onEvent struct{ do func() }

// Handle implements [caddyevents.Handler].
func (h *onEvent) Handle(context.Context, caddy.Event) error {
	h.do()
	return nil
}

// started follows Caddy's event of that name, which comes when all apps have started.
func (a *App) started() {
	a.eventsLogged = a.ctx.Logger(a.events).Core().Enabled(zap.DebugLevel)
	a.eventsStarted.Store(true)
}

// stopping follows Caddy's event of that name, which comes before any app is stopped. It leaves the channels to the
// configuration that takes the place of this one, and tells streams. If there is none, or the process exits, it ends all
// reads and waits: the http app waits for open requests then, by default for ever. With a shutdown_delay, sites are
// served until it is over.
func (a *App) stopping() {
	exits := caddy.Exiting() // maybe in the middle of a reload
	if !exits {
		a.unload()
	}
	if a.handOverEvents() && !exits {
		go a.watchExit()
		return
	}
	if app, err := a.ctx.AppIfConfigured("http"); err == nil && exits {
		if delay := time.Duration(app.(*caddyhttp.App).ShutdownDelay); delay > 0 {
			time.AfterFunc(delay, a.close)
			return
		}
	}
	a.close()
}

// watchExit ends all reads if the process is told to exit after the stopping event of a reload: the http app would wait
// for those of this configuration, and the exit for the reload. It ends when all apps have stopped.
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
