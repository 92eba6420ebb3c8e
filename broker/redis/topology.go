package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/internal/clock"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// topologyInterval is how often the client asks which servers there are. Beside that, it asks after errors.
const topologyInterval = 5 * time.Second

// beatDelay is how long after a change in the connections the next heartbeat comes.
const beatDelay = 100 * time.Millisecond

// beatSoon makes the next heartbeat come soon. It looks where the channels are now.
func (b *Broker) beatSoon() {
	time.AfterFunc(beatDelay, func() {
		select {
		case b.heartbeat.due <- struct{}{}:
		default:
		}
	})
}

// server returns the connection to a server of the cluster, or to the only server.
func (b *Broker) server(address string) (rueidis.Client, error) {
	if address == "" {
		return b.client, nil
	}
	if c, ok := b.client.Nodes()[address]; ok {
		return c, nil
	}
	return nil, fmt.Errorf("redis: the server %s of the cluster is not known yet, or not any more", address)
}

// follow sees to it that this node listens for each scope at the server that has it. In a cluster slots move, and replicas take
// over from their primaries.
func (b *Broker) follow(ctx context.Context) error {
	owners := make([]string, len(b.keys.scopes))
	if b.options.Cluster {
		var err error
		if owners, err = b.owners(ctx); err != nil {
			return err
		}
	}
	b.notePlaces(owners)
	wanted := map[string][]int{}
	var missing error
	for scope, address := range owners {
		if address == "" && b.options.Cluster {
			missing = fmt.Errorf("redis: no server of the cluster has slot %d", hashSlot(tags()[scope]))
			continue
		}
		wanted[address] = append(wanted[address], scope)
	}
	b.listeners = slices.DeleteFunc(b.listeners, func(l *listener) bool {
		if len(wanted[l.address]) == 0 {
			close(l.stopped)
		}
		return len(wanted[l.address]) == 0
	})
	for _, l := range b.listeners {
		l.listenFor(wanted[l.address])
		delete(wanted, l.address)
	}
	for address, scopes := range wanted {
		l := b.newListener(address)
		l.scopes = scopes
		b.listeners = append(b.listeners, l)
		guard.Go(guard.Broker, l.run)
	}
	return missing
}

// listenFor tells the listener for which scopes it should listen. It tries again with those that were refused.
func (l *listener) listenFor(scopes []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.scopes = scopes
	for scope := range l.attached {
		if !slices.Contains(scopes, scope) {
			delete(l.attached, scope)
		}
	}
	if len(l.attached) < len(scopes) {
		select {
		case l.changed <- struct{}{}:
		default:
		}
	}
}

// owners returns the address of the primary that has each scope. It asks all servers, and takes the first answer.
func (b *Broker) owners(ctx context.Context) ([]string, error) {
	servers := b.client.Nodes()
	type answer struct {
		owners []string
		err    error
	}
	answers := make(chan answer, len(servers))
	for address, c := range servers {
		guard.Go(guard.Broker, func() {
			owners, err := b.ownersBy(ctx, address, c)
			answers <- answer{owners, err}
		}, func() { answers <- answer{err: errPanic} })
	}
	err := errors.New("redis: no server of the cluster is known")
	for range servers {
		a := <-answers
		if a.err == nil {
			return a.owners, nil
		}
		err = fmt.Errorf("redis: cannot ask the cluster for its slots: %w", a.err)
	}
	return nil, err
}

// ownersBy asks one server.
func (b *Broker) ownersBy(ctx context.Context, address string, c rueidis.Client) ([]string, error) {
	ranges, err := b.do(ctx, c, c.B().ClusterSlots().Build()).ToArray()
	if err != nil {
		return nil, err
	}
	owners := make([]string, len(b.keys.scopes))
	for _, part := range ranges { // first slot, last slot, the primary, and its replicas
		values, err := part.ToArray()
		if err != nil || len(values) < 3 {
			return nil, errData
		}
		primary, err := values[2].ToArray()
		if err != nil || len(primary) < 2 {
			return nil, errData
		}
		host, _ := primary[0].ToString()
		if host == "" { // it does not know its own
			host, _, _ = net.SplitHostPort(address)
		}
		owner := net.JoinHostPort(host, text(integer(primary, 1)))
		for scope := range owners {
			if slot := int64(hashSlot(tags()[scope])); integer(values, 0) <= slot && slot <= integer(values, 1) {
				owners[scope] = owner
			}
		}
	}
	return owners, nil
}

// beatListeners pushes a heartbeat to this node by each server, and gives up connections on which heartbeats do not come.
func (b *Broker) beatListeners(ctx context.Context) error {
	errs := make([]error, len(b.listeners))
	var all sync.WaitGroup
	for i, l := range b.listeners {
		all.Go(func() {
			defer guard.Recover(guard.Broker, func() { errs[i] = errPanic })
			errs[i] = l.beat(ctx)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// beat pushes a heartbeat to this node. It fails if the two before have not come.
func (l *listener) beat(ctx context.Context) error {
	b := l.broker
	l.mu.Lock()
	scope, listens := 0, false
	for scope = range l.attached {
		listens = true
		break
	}
	l.mu.Unlock()
	if !listens {
		return nil // it is connecting, which it logs
	}
	server, err := b.server(l.address)
	if err != nil {
		return err
	}
	frame := rueidis.BinaryString(appendNumber([]byte{'h'}, 0, 4))
	push := server.B().Spublish().Channel(b.keys.pushPrefix(scope) + b.node).Message(frame).Build()
	begun := clock.Now()
	heard, err := b.do(ctx, server, push).AsInt64()
	if refusal, ok := rueidis.IsRedisErr(err); ok {
		if _, moved := refusal.IsMoved(); moved {
			b.beatSoon()
			return nil
		}
	}
	switch {
	case err != nil:
		return b.failed(err, false)
	case heard == 0, time.Duration(l.seen.Load()) < l.pushed[0]:
		b.setHealth(l, errStale)
		l.giveUp()
		return errStale
	}
	l.pushed = [2]time.Duration{l.pushed[1], begun}
	return nil
}
