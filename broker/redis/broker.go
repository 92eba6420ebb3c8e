// Package redis keeps channels and their messages in Redis or Valkey, so that any number of servers, the nodes, share them: any
// node serves any channel. Its [Broker] implements [broker.Broker] and the optional interfaces that make sense for a store that
// others share.
//
// Every change of a channel is one script, which Redis runs as one step (lua/). Redis' clock is the only one. A message moves
// through the package like this:
//
//   - A write joins the queue of its lane (publish.go). One call carries the writes of many producers. The script appends the
//     message if there is room. Since a channel has one reader, its state names the reader's node, and the script pushes the
//     message to that node, over Pub/Sub.
//   - If there is no room, the script keeps the message with the calls that wait (waiters.go). Whatever makes room admits them,
//     first come first served, and tells their nodes.
//   - The reader's node gets the message on its one Pub/Sub connection (push.go) and adds it to the reader's subscription
//     (subscription.go). So a message usually takes one round trip, that of the write.
//   - What the reader takes and settles its node reports later, many messages at once (advance.go). The same script fetches what
//     was not pushed: large messages, what came before the reader, and what got lost.
//
// A reader is known by its node and by a number of that node, its fence: whoever is not the reader any more changes nothing. After
// anything that may have lost a push or more, readers resync by event ids (subscribe.go).
//
// Each node looks after a part of the partitions (node.go): it deletes expired channels, frees those whose readers are gone,
// and reports deletions.
//
// # Topics
//
// A topic's members stand beside their channels, in the same scope: all of Redis, or in a cluster a partition (lua/members.lua). So a
// membership goes with its channel in one step. What a topic keeps, its end, and which scopes have members stands in one scope by the
// topic's name, its home (lua/home.lua). A scope's changes for other homes wait in a list until a node has told them (topichome.go).
//
// A publish, and the end of a topic, walk over the members (walk.go, lua/walk.lua): at most a hundred in one call, which takes Redis
// about a millisecond. The home gives walks their turn, one at a time, and a number. Most topics have fewer members, and one call does
// all. To each node with readers goes one push for each call, with the line once. So all members have the messages of a topic in the
// order of its walks, and each publisher's messages in the order in which it has published them.
//
//   - A channel that joins during a walk is not visited, and one that has left is not either. In a cluster a join reads what is kept
//     at the home, and joins in its own scope. If a walk that began in between was in that scope already, the join begins again
//     (topics.go). So what is kept and what is published meet without a gap or a double.
//   - An end takes its turn like a publish. Whoever joins after that with what is kept gets the end from the home.
//   - A node that loses Redis, or is killed, in the middle of a walk leaves members that have the message and members that do not. The
//     call has failed with ErrOutcomeUnknown. A repeat with the same key is another walk, which completes it: those that have the
//     message drop it. The turn of a node that is gone is over as soon as another one asks, and that of one that stands still after
//     ten seconds. If it goes on then, scopes where a later walk was refuse it.
//   - What is told to homes is told at least once, so a report that a topic has got its first member or lost its last one may come
//     twice after a node was killed.
package redis

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/warning"
)

// A Broker is the [broker.Broker] that keeps channels in Redis. Make one with [New].
type Broker struct {
	options Options
	log     *slog.Logger
	prefix  string
	keys    keyspace
	node    string // names this node: 8 random bytes

	// Set by Start.
	client    rueidis.Client
	codec     atomic.Pointer[codec]
	listeners []*listener
	lanes     []*lane
	barriers  []*barrier

	subs     subscriptions
	owed     owedEnds
	waiters  waiters
	turns    turns
	ledger   *ledger
	stats    stats
	store    storeStats
	reports  reports
	waiting  waiting
	draining draining

	aheadBytes       atomic.Int64 // of messages that readers have not taken yet
	drainUndelivered atomic.Int64
	health           health
	warnings         warnings
	refusals         warning.Limiter

	heartbeat heartbeat
	learned   learned

	// Of the goroutine work.
	nodes, departed []string              // see learned
	reaped          [partitions]time.Time // when the readers of a partition were looked after; zero if that is due
	reapAfter       time.Time
	tellDue         bool           // the homes of topics may have lost something
	telling         map[int]uint64 // by scope: how far they have been told again

	freed   chan struct{}
	flushes chan chan struct{}
	resyncs chan struct{}

	startMu    sync.Mutex
	started    chan struct{} // closed when Start has succeeded
	closed     atomic.Bool
	closing    chan struct{}   // closed when Close is called
	background context.Context //nolint:containedctx // of calls that belong to no caller
	cancel     context.CancelFunc
	worked     chan struct{} // closed when work has returned
}

// New returns a Broker for the options, which it checks. It connects to nothing before [Broker.Start].
func New(o Options) (*Broker, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	var node [8]byte
	_, _ = rand.Read(node[:]) // never fails, crashes instead
	b := &Broker{
		options: o, log: o.logger(), prefix: o.KeyPrefix, node: string(node[:]),
		keys:    newKeyspace(o.KeyPrefix, o.Cluster),
		subs:    subscriptions{all: map[uint32]*subscription{}},
		waiters: waiters{all: map[uint64]*waiter{}, lost: map[uint64]note{}, alone: map[uint64]*item{}},
		freed:   make(chan struct{}, 1), flushes: make(chan chan struct{}), resyncs: make(chan struct{}, maxResyncs),
		heartbeat: heartbeat{due: make(chan struct{}, 1), histories: map[string]string{}, stopped: make(chan struct{})},
		waiting:   waiting{missing: map[int]bool{}}, health: health{bad: map[*listener]error{}},
		started: make(chan struct{}), closing: make(chan struct{}), worked: make(chan struct{}),
	}
	b.waiters.counts = b.countAlone
	b.reports.streams, b.waiting.streams = make([]stream, len(b.keys.scopes)), make([]stream, len(b.keys.scopes))
	for scope := range b.reports.streams {
		b.reports.streams[scope].ordered = true
	}
	b.ledger = newLedger(len(b.keys.scopes))
	b.background, b.cancel = context.WithCancel(context.Background())
	for scope := range b.keys.scopes {
		b.lanes = append(b.lanes, &lane{broker: b, scope: scope})
		b.barriers = append(b.barriers, &barrier{broker: b, scope: scope})
	}
	return b, nil
}

func (b *Broker) isClosed() bool { return b.closed.Load() }

func (b *Broker) isStarted() bool {
	select {
	case <-b.started:
		return true
	default:
		return false
	}
}

// ready waits until the Broker has started.
func (b *Broker) ready(ctx context.Context) error {
	if b.isClosed() {
		return broker.ErrClosed
	}
	select {
	case <-b.started:
		return nil
	default:
	}
	select {
	case <-b.started:
		return nil
	case <-b.closing:
		return broker.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// decode returns the id of the channel that an address names. There need not be such a channel.
func (b *Broker) decode(address string, consumer bool) (channelID, error) {
	agent, secret, ok := broker.ParseAddress(address)
	switch {
	case b.isClosed():
		return channelID{}, broker.ErrClosed
	case !ok:
		return channelID{}, broker.ErrNotFound
	case consumer:
		return decode(b.codec.Load().consumer, agent, secret), nil
	}
	return decode(b.codec.Load().producer, agent, secret), nil
}

// producerID returns the id of the channel that a producer address names, for so many messages.
func (b *Broker) producerID(ctx context.Context, address string, messages int) (channelID, error) {
	if err := b.ready(ctx); err != nil {
		return channelID{}, err
	}
	x, err := b.decode(address, false)
	if err == broker.ErrNotFound { //nolint:errorlint // decode returns it as it is
		b.stats.unroutable.Add(uint64(messages)) //nolint:gosec // not negative
	}
	return x, err
}

func (b *Broker) consumerID(ctx context.Context, address string) (channelID, error) {
	if err := b.ready(ctx); err != nil {
		return channelID{}, err
	}
	return b.decode(address, true)
}

// Create implements [broker.Broker].
func (b *Broker) Create(ctx context.Context, agent string, l broker.Limits) (broker.Addresses, error) {
	x, err := b.create(ctx, agent, false, &l)
	if err != nil {
		return broker.Addresses{}, err
	}
	return b.codec.Load().addresses(x, agent), nil
}

// create makes a channel, which may know topics.
func (b *Broker) create(ctx context.Context, agent string, knows bool, l *broker.Limits) (x channelID, err error) {
	if err := b.ready(ctx); err != nil {
		return x, err
	}
	if b.draining.isActive() {
		return x, broker.ErrDraining
	}
	client := ""
	if l.MaxChannelsPerClient > 0 {
		client = l.Client
	}
	x = newChannelID(client)
	p, counted := x.partition(), ""
	if client != "" {
		counted = clientID(client)
	}
	scope := b.keys.scopeOf(p)
	ttl, own := l.TTL, l.ChannelTTL != 0
	if own {
		ttl = l.ChannelTTL
	}
	numbers := packer{}.put(5, ms(ttl)).put(5, int64(l.MaxChannels)).put(5, b.ledger.elsewhere(scope).channels).
		put(5, int64(l.MaxChannelsPerClient)).put(1, one(own)).put(1, one(knows))
	keys := []string{b.keys.key('s', x), b.keys.counters(scope), b.keys.expiries(p), b.keys.quotas(p)}
	code, err := b.run(b.background, createScript, keys, "", rueidis.BinaryString(numbers), counted, strings.Clone(agent)).AsInt64()
	switch {
	case err != nil:
		return x, b.failed(err, false)
	case code == 1:
		return x, broker.ErrChannelLimit
	case code == 2:
		return x, broker.ErrClientLimit
	}
	b.stats.created.Add(1)
	return x, nil
}

// Delete implements [broker.Broker].
func (b *Broker) Delete(ctx context.Context, address string) error {
	x, _, err := b.find(ctx, address)
	if err != nil {
		return err
	}
	return b.delete(x)
}

// delete removes a channel.
func (b *Broker) delete(x channelID) error {
	call := b.deleteCall(x)
	return b.deleted(x, b.run(b.background, deleteScript, call.keys, call.args...))
}

func (b *Broker) deleteCall(x channelID) scriptCall {
	scope := b.keys.scopeOf(x.partition())
	return scriptCall{
		[]string{b.keys.key('s', x), b.keys.counters(scope), b.keys.deletions(scope)}, []string{b.keys.pushPrefix(scope)},
	}
}

// deleted takes the reply to a call that removes a channel.
func (b *Broker) deleted(x channelID, reply rueidis.RedisResult) error {
	message, err := reply.ToMessage()
	if err != nil {
		return b.failed(err, true)
	}
	if code, err := message.AsInt64(); err == nil && code == -2 {
		return b.gone()
	}
	if b.countDeleted(message, broker.EndDeleted) > 0 {
		b.tellNow(b.keys.scopeOf(x.partition()))
	}
	b.memoryFreed()
	return nil
}
