package redis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A listener has one Pub/Sub connection to a server. On it come the messages for readers of this node, and what became of calls
// that wait for room.
type listener struct {
	broker *Broker
	ctx    context.Context //nolint:containedctx // of the start that has made it
	client rueidis.Client  // of one server
	scopes []int           // that it listens for
	seen   atomic.Int64    // when the last heartbeat came, in Unix nanoseconds
	broken chan struct{}   // receives a value when heartbeats do not come
	ready  chan struct{}   // closed when it listens for the first time
}

// newListeners returns a listener for each server that has channels.
func (b *Broker) newListeners(ctx context.Context) ([]*listener, error) {
	scopes := make([]int, len(b.keys.scopes))
	for scope := range scopes {
		scopes[scope] = scope
	}
	if !b.options.Cluster {
		return []*listener{b.newListener(b.client, scopes)}, nil
	}
	var all []*listener
	nodes := b.client.Nodes()
	shards, err := b.do(ctx, b.client, b.client.B().ClusterSlots().Build()).ToArray()
	if err != nil {
		return nil, fmt.Errorf("redis: cannot ask %s for the slots of the cluster: %w", b.where(), err)
	}
	byAddress := map[string]*listener{}
	for _, shard := range shards { // first slot, last slot, the primary, and its replicas
		parts, err := shard.ToArray()
		if err != nil || len(parts) < 3 {
			return nil, errData
		}
		primary, err := parts[2].ToArray()
		if err != nil || len(primary) < 2 {
			return nil, errData
		}
		host, _ := primary[0].ToString()
		address := net.JoinHostPort(host, text(integer(primary, 1)))
		client, ok := nodes[address]
		if !ok {
			return nil, fmt.Errorf("redis: the server %s of the cluster is not connected", address)
		}
		l, ok := byAddress[address]
		if !ok {
			l = b.newListener(client, nil)
			byAddress[address] = l
			all = append(all, l)
		}
		for _, scope := range scopes {
			if slot := int64(hashSlot(tags()[scope])); integer(parts, 0) <= slot && slot <= integer(parts, 1) {
				l.scopes = append(l.scopes, scope)
			}
		}
	}
	return slices.DeleteFunc(all, func(l *listener) bool { return len(l.scopes) == 0 }), nil
}

func (b *Broker) newListener(c rueidis.Client, scopes []int) *listener {
	return &listener{broker: b, ctx: b.background, client: c, scopes: scopes, broken: make(chan struct{}, 1), ready: make(chan struct{})}
}

// run listens until the Broker closes. After each interruption it resyncs all readers, since pushes may have been lost.
func (l *listener) run() {
	b := l.broker
	defer b.setHealth(l, nil)
	for first := true; l.ctx.Err() == nil && !b.isClosed(); first = false {
		if !first {
			b.store.reconnects.Add(1)
			select {
			case <-time.After(listenDelay/2 + rand.N(listenDelay)): //nolint:gosec // no secret
			case <-b.closing:
				return
			case <-l.ctx.Done():
				return
			}
		}
		err := l.listen(first)
		if l.ctx.Err() == nil && !b.isClosed() {
			if b.setHealth(l, err) {
				b.log.Warn("redis: the connection for pushed messages is lost, connecting again", "address", b.where(), "error", err)
			}
		}
	}
}

// errStale is why a connection is given up on which heartbeats do not come.
var errStale = errors.New("redis: what this node has pushed to itself did not come")

// listenDelay is how long a listener waits before it connects again.
const listenDelay = 500 * time.Millisecond

// listen listens until the connection is lost.
func (l *listener) listen(first bool) (err error) {
	defer guard.Recover(guard.Broker, func() { err = errPanic })
	b := l.broker
	c, release := l.client.Dedicate()
	defer release()
	defer c.Close()
	lost := c.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: func(m rueidis.PubSubMessage) { l.receive(m.Message) }})
	ctx, cancel := context.WithTimeout(l.ctx, b.options.Timeout)
	defer cancel()
	for _, scope := range l.scopes {
		// The channels of one command must have one slot.
		if err := c.Do(ctx, c.B().Ssubscribe().Channel(b.keys.pushPrefix(scope)+b.node).Build()).Error(); err != nil {
			return err
		}
	}
	l.seen.Store(time.Now().UnixNano())
	b.setHealth(l, nil)
	if first {
		close(l.ready)
	} else {
		guard.Go(guard.Broker, b.resync)
	}
	select {
	case err := <-lost:
		return err
	case <-l.broken:
		return errStale
	case <-l.ctx.Done():
		return nil
	}
}

// giveUp makes the listener connect again.
func (l *listener) giveUp() {
	select {
	case l.broken <- struct{}{}:
	default:
	}
}

// receive handles what was pushed: frames as lua/state.lua makes them.
func (l *listener) receive(frames string) {
	defer guard.Recover(guard.Broker, l.giveUp)
	const head = 5
	for len(frames) >= head {
		kind, size := frames[0], int(number(frames[1:head])) //nolint:gosec // 4 bytes
		if frames = frames[head:]; len(frames) < size {
			return
		}
		l.handle(kind, frames[:size])
		frames = frames[size:]
	}
}

// Sizes of the parts of frames.
const (
	fenceSize   = 4
	messageSize = fenceSize + 6 // and position
	noteSize    = 6 + 1 + 2 + 2 // number, status, accepted, duplicates
)

func (l *listener) handle(kind byte, data string) {
	b := l.broker
	switch kind {
	case 'h':
		l.seen.Store(time.Now().UnixNano())
		return
	case 'a':
		if len(data) >= noteSize {
			b.waiters.tell(number(data[:6]), note{data[6], int(number(data[7:9])), int(number(data[9:11]))}) //nolint:gosec // 2 bytes
		}
		return
	}
	if len(data) < fenceSize {
		return
	}
	fence := uint32(number(data[:fenceSize])) //nolint:gosec // 4 bytes
	s := b.subs.get(fence)
	if s == nil {
		return // it has ended meanwhile
	}
	switch kind {
	case 'm':
		if len(data) > messageSize {
			s.push(fence, number(data[fenceSize:messageSize]), strings.Clone(data[messageSize:]))
		}
	case 'w':
		s.askFetch(fence)
	case 'r':
		s.askReport(fence)
	case 't':
		s.endBy(fence, broker.ErrTakenOver)
	case 'f': // other nodes took this one for gone
		guard.Go(guard.Broker, s.resync, s.panicked)
	case 'd':
		s.endBy(fence, b.gone())
	}
}

// endBy ends the subscription if the fence is still its own.
func (s *subscription) endBy(fence uint32, reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fence == s.fence && !s.starting {
		s.finish(reason)
	} else if fence == s.fence {
		s.endsWith = reason
	}
}

// resync makes sure that nothing that was pushed is lost.
func (b *Broker) resync() {
	begun, producers, readers := time.Now(), len(b.waiters.snapshot()), 0
	b.resyncWaiters()
	var resyncs sync.WaitGroup
	for _, s := range b.subs.snapshot() {
		s.mu.Lock()
		skip := s.starting || s.over
		s.mu.Unlock()
		if skip {
			continue // it asks Redis anyway
		}
		select {
		case b.resyncs <- struct{}{}:
		case <-b.closing:
			return
		}
		readers++
		resyncs.Go(func() {
			defer guard.Recover(guard.Broker, s.panicked)
			defer func() { <-b.resyncs }()
			s.resync()
		})
	}
	resyncs.Wait()
	if !b.isClosed() {
		b.log.Info("redis: pushes may have been lost: all that wait for some have asked Redis, and go on", "readers", readers,
			"producers", producers, "took", time.Since(begun).Round(time.Millisecond))
	}
}

// maxResyncs is how many readers resync at once.
const maxResyncs = 64
