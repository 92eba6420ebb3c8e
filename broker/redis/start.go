package redis

import (
	"context"
	"fmt"

	"github.com/redis/rueidis"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// Start connects to Redis. It fails if Redis cannot be reached, or cannot keep channels as the options ask for. Calls of other
// methods wait until Start has succeeded. Starting again has no effect. After it has failed, it may be called again. Close ends it.
func (b *Broker) Start(ctx context.Context) error {
	b.startMu.Lock()
	defer b.startMu.Unlock()
	switch {
	case b.isClosed():
		return broker.ErrClosed
	case b.isStarted():
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, b.options.DialTimeout+b.options.Timeout)
	defer cancel()
	guard.Go(guard.Broker, func() {
		select {
		case <-b.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	if err := b.connect(ctx); err != nil {
		if b.isClosed() {
			return broker.ErrClosed
		}
		return err
	}
	close(b.started)
	go b.work()
	go b.keepBeating()
	b.log.Info("redis: connected", "address", b.where(), "node", nodeID(b.node))
	return nil
}

// connect connects to Redis, and prepares all for the first call.
func (b *Broker) connect(ctx context.Context) error {
	client, err := b.newClient(ctx)
	if err != nil {
		return fmt.Errorf("redis: cannot connect to %s: %w", b.where(), err)
	}
	b.client = client
	if err := b.prepare(ctx); err != nil {
		for _, l := range b.listeners {
			close(l.stopped)
		}
		b.listeners = nil
		b.within(closeTimeout/4, client.Close)
		return err
	}
	return nil
}

// newClient returns a client once it is connected. Package rueidis knows no context for that, and would wait for a server that does
// not answer.
func (b *Broker) newClient(ctx context.Context) (rueidis.Client, error) {
	var client rueidis.Client
	err := errPanic
	connected := make(chan struct{})
	guard.Go(guard.Broker, func() {
		defer close(connected)
		client, err = rueidis.NewClient(b.options.clientOption())
	})
	select {
	case <-connected:
		return client, err
	case <-ctx.Done():
		guard.Go(guard.Broker, func() {
			if <-connected; err == nil {
				client.Close()
			}
		})
		return nil, ctx.Err()
	}
}

// prepare does what must be done before the first call.
func (b *Broker) prepare(ctx context.Context) error {
	if err := b.checkServer(ctx, b.client); err != nil {
		return err
	}
	if err := b.loadCodec(ctx); err != nil {
		return err
	}
	if err := b.follow(ctx); err != nil {
		return err
	}
	for _, l := range b.listeners {
		select {
		case <-l.ready:
		case <-ctx.Done():
			return fmt.Errorf("redis: cannot listen at %s for pushed messages: %w", b.where(), ctx.Err())
		}
	}
	if err := b.beat(ctx); err != nil {
		return err
	}
	b.learn()
	return nil
}
