package redis

import (
	"context"
	"sync"

	"github.com/caddy-megaphone/megaphone/broker"
)

// turns are the topics that this node publishes to now. Calls of one node take turns here, so at most one of them waits in Redis.
type turns struct {
	mu  sync.Mutex
	all map[string]*turn
}

// A turn is that of one topic.
type turn struct {
	taken chan struct{} // has a value while a call has the turn; others wait to send one
	calls int           // that have it or wait for it
}

// take waits for the turn. The caller must call release.
func (ts *turns) take(ctx context.Context, topic string, closing <-chan struct{}) (release func(), err error) {
	ts.mu.Lock()
	if ts.all == nil {
		ts.all = map[string]*turn{}
	}
	t := ts.all[topic]
	if t == nil {
		t = &turn{taken: make(chan struct{}, 1)}
		ts.all[topic] = t
	}
	t.calls++
	ts.mu.Unlock()
	select {
	case t.taken <- struct{}{}:
		return func() {
			<-t.taken
			ts.leave(topic, t)
		}, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-closing:
		err = broker.ErrClosed
	}
	ts.leave(topic, t)
	return nil, err
}

func (ts *turns) leave(topic string, t *turn) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t.calls--; t.calls == 0 {
		delete(ts.all, topic)
	}
}
