package megaphone

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/conn"
	_ "github.com/caddy-megaphone/megaphone/internal/diskmodule" // the module megaphone.brokers.disk
	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/heaplimit"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
	"github.com/caddy-megaphone/megaphone/internal/metrics"
	_ "github.com/caddy-megaphone/megaphone/internal/redismodule" // the module megaphone.brokers.redis
	"github.com/caddy-megaphone/megaphone/internal/topicend"
	"github.com/caddy-megaphone/megaphone/internal/warning"
	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

// A registry holds what outlives configurations: the Broker that keeps the channels, and what is counted beside it.
type registry struct {
	broker broker.Broker

	metrics  *metrics.Metrics
	webhooks *webhook.Metrics
	warnings warnings
	closes   closeCodes
	refused  warning.Limiter // messages that clients refuse because of their size
	active   activeApps
	later    eventQueue
	heap     heaplimit.Guard
	bodies   *conn.Bodies

	topicEnds topicend.Ends

	ends     chan struct{}   // closed when Close is called
	closing  context.Context // ends when the Broker is closed
	close    context.CancelFunc
	closedAt atomic.Pointer[time.Time]

	slowed  atomic.Int32 // clients that wait in slowDown
	sockets atomic.Int32 // WebSockets, detached reads and direct writes that wait: Caddy does not wait for them when it exits
}

// registries holds a registry for each Broker that a configuration uses, by the Broker's key.
var registries = caddy.NewUsagePool()

func newRegistry(b broker.Broker) *registry {
	hooks := webhook.NewMetrics(metrics.Name)
	s := &registry{
		broker:   b,
		metrics:  metrics.New(b, endpointNames, limitNames, append(hooks.Collectors(), conn.Collectors(metrics.Name)...)...),
		webhooks: hooks,
		warnings: newWarnings(limitNames),
		bodies:   conn.NewBodies(broker.ErrClosed),
		ends:     make(chan struct{}),
	}
	s.later.wake, s.later.done = make(chan struct{}, 1), make(chan struct{})
	s.closing, s.close = context.WithCancel(context.Background())
	if b, ok := b.(broker.MemoryUser); ok {
		s.heap.Messages = b.MemoryUsed
	}
	if b, ok := b.(broker.DeletionSource); ok {
		b.OnDeletions(s.reportDeletions)
	}
	if b, ok := b.(broker.WaitingSource); ok {
		b.OnWaiting(s.waitingAfter, s.reportWaiting)
	}
	if b, ok := b.(broker.TopicSource); ok {
		b.OnTopics(s.reportTopics)
	}
	go s.emitLater()
	return s
}

// acquireRegistry finds or makes the registry of the configured Broker. If it fails, the App holds none.
func (a *App) acquireRegistry(ctx caddy.Context) error {
	guest, err := ctx.LoadModule(a, "BrokerRaw")
	if err != nil {
		return err
	}
	provider, ok := guest.(broker.Provider)
	id := guest.(caddy.Module).CaddyModule().ID
	if !ok {
		return fmt.Errorf("the module %s provides no broker: name another module of %s", id, brokerNamespace)
	}
	key := string(id) + " " + provider.BrokerKey()
	pooled, _, err := registries.LoadOrNew(key, func() (caddy.Destructor, error) {
		return openRegistry(provider)
	})
	if err != nil {
		return err
	}
	a.registry, a.brokerKey, a.acquired = pooled.(*registry), key, true
	a.broker, a.provider = a.registry.broker, provider
	return nil
}

// startBroker makes the Broker ready, with the settings of this configuration. If it fails, so does the load of the
// configuration: the process exits, or goes on with the configuration that it has.
func (a *App) startBroker() error {
	if s, ok := a.broker.(broker.Starter); ok {
		if err := s.Start(a.ctx); err != nil {
			return fmt.Errorf("broker: %w", err)
		}
	}
	if p, ok := a.provider.(broker.Configurer); ok {
		p.ConfigureBroker(a.broker)
	}
	return nil
}

// openRegistry opens a Broker and makes its registry. A panic becomes an error, for Caddy's pool would stay locked.
func openRegistry(provider broker.Provider) (s caddy.Destructor, err error) {
	defer guard.Recover(guard.Broker, func() { err = errors.New("the module panicked: the log has the stack") })
	b, err := provider.OpenBroker()
	if err != nil {
		return nil, err
	}
	return newRegistry(b), nil
}

// brokerNamespace is the Caddy namespace of guest modules that provide a Broker.
const brokerNamespace = "megaphone.brokers"

func init() { caddy.RegisterModule(new(MemoryBroker)) }

// MemoryBroker keeps channels and messages in the memory of this process. They outlive configuration reloads. A restart of
// the process loses them.
type MemoryBroker struct{}

// CaddyModule returns the Caddy module information.
func (*MemoryBroker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: brokerNamespace + ".memory", New: func() caddy.Module { return new(MemoryBroker) }}
}

// BrokerKey implements [broker.Provider]. There is one Broker in memory.
func (*MemoryBroker) BrokerKey() string { return "" }

// OpenBroker implements [broker.Provider].
func (*MemoryBroker) OpenBroker() (broker.Broker, error) { return memory.New(), nil }

// UnmarshalCaddyfile sets up the broker from Caddyfile tokens. Syntax, in the global option:
//
//	megaphone {
//		broker memory
//	}
func (*MemoryBroker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the broker's name
	if d.NextArg() {
		return d.Errf("the broker memory takes no argument, but has %q: leave it out", d.Val())
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		return d.Errf("the broker memory has no setting %q: leave out its block", d.Val())
	}
	return nil
}

// unmarshalBroker sets up the guest module from the setting broker.
func (a *App) unmarshalBroker(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Err("broker takes the name of a module: write for example broker memory")
	}
	name := d.Val()
	module, err := caddy.GetModule(brokerNamespace + "." + name)
	if err != nil {
		return d.Errf("there is no broker %q: name one of %s", name, strings.Join(brokerNames(), ", "))
	}
	if _, ok := module.New().(broker.Provider); !ok {
		return d.Errf("the module %s provides no broker: name one of %s", module.ID, strings.Join(brokerNames(), ", "))
	}
	guest, err := caddyfile.UnmarshalModule(d, string(module.ID))
	if err != nil {
		return err
	}
	a.BrokerRaw = caddyconfig.JSONModuleObject(guest, "module", name, nil)
	return nil
}

// brokerNames are the names of all guest modules.
func brokerNames() []string {
	modules := caddy.GetModules(brokerNamespace)
	names := make([]string, 0, len(modules))
	for _, module := range modules {
		names = append(names, module.ID.Name())
	}
	return names
}

// Close ends all reads and waits, because the process exits or no configuration uses the Broker any more.
func (s *registry) Close() {
	now := time.Now()
	if s.closedAt.CompareAndSwap(nil, &now) {
		close(s.ends)
	}
	defer s.bodies.End()
	defer s.close()
	defer guard.Recover(guard.Broker)
	s.topicEnds.Close(s.exitTime(maxExitEnds))
	s.broker.Close()
}

// isClosed reports whether Close has been called.
func (s *registry) isClosed() bool { return s.closedAt.Load() != nil }

// Destruct implements [caddy.Destructor]. Caddy calls it when the last configuration that uses the Broker is gone.
func (s *registry) Destruct() error {
	s.Close()
	return nil
}

// flushDeletions makes the Broker report at once what was deleted until now.
func (s *registry) flushDeletions() {
	defer guard.Recover(guard.Broker)
	if b, ok := s.broker.(broker.DeletionSource); ok {
		b.FlushDeletions()
	}
}

// health returns "OK" if new clients are welcome, and otherwise why they are not.
func (s *registry) health() string {
	if broker.IsDraining(s.broker) || s.isClosed() || caddy.Exiting() {
		return "DRAINING"
	}
	if b, ok := s.broker.(broker.HealthChecker); ok {
		switch err := b.Healthy(); {
		case errors.Is(err, broker.ErrStarting):
			return httpjson.ErrorOf(broker.ErrStarting).Code
		case err != nil:
			return httpjson.ErrorOf(broker.ErrStorage).Code
		}
	}
	return "OK"
}

// slowDown makes a client wait that would otherwise repeat its request in a loop. Existing clients do that when a read is
// refused (protocol.md, part 3). If too many clients wait already, it returns at once.
func (s *registry) slowDown(ctx context.Context) {
	defer s.slowed.Add(-1)
	if s.slowed.Add(1) > maxSlowed {
		return
	}
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-s.ends:
	}
}

// maxSlowed is how many clients may wait in slowDown at once.
const maxSlowed = 1000

// guardHeap sets the heap limit by the max_memory of the active configuration, if the Broker keeps messages in this process.
func (s *registry) guardHeap() {
	if s.heap.Messages == nil {
		return
	}
	if a := s.active.current.Load(); a != nil {
		s.heap.Set(a.MaxMemory)
	} else {
		s.heap.Set(0)
	}
}

// Interface guards.
var (
	_ broker.Provider       = (*MemoryBroker)(nil)
	_ caddyfile.Unmarshaler = (*MemoryBroker)(nil)
)
