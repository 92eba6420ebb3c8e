package memory

import (
	"context"
	"github.com/caddy-megaphone/megaphone/broker"
	"sync/atomic"
	"time"
)

// A waiter is what one producer writes to one channel. While the channel has no room for all of it, it
// stands in the channel's line. The channel's lock guards it until it is done.
type waiter struct {
	channel  *channel
	ms       []*broker.Message // what the channel has not taken yet
	limits   broker.Limits
	accepted int
	err      error

	call       caller        // whom to tell when it is done
	waiting    bool          // it stands in line
	since      time.Duration // when it came there, on the registry's clock
	prev, next *waiter
}

// A waitList is a channel's line of waiting producers. Its zero value is empty.
type waitList struct {
	first, last *waiter
}

func (l *waitList) push(p *waiter) {
	p.waiting, p.prev = true, l.last
	if l.last == nil {
		l.first = p
	} else {
		l.last.next = p
	}
	l.last = p
}

func (l *waitList) remove(p *waiter) {
	if p.prev == nil {
		l.first = p.next
	} else {
		p.prev.next = p.next
	}
	if p.next == nil {
		l.last = p.prev
	} else {
		p.next.prev = p.prev
	}
	p.waiting, p.prev, p.next = false, nil, nil
}

// A caller is told that a publication which stood in line does so no more. The channel's lock is held.
type caller interface{ finished() }

// A call is a producer's call that waits for its publications, one for each channel.
type call struct {
	waiting atomic.Int32
	done    chan struct{}
}

// finished implements [caller].
func (w *call) finished() {
	if w.waiting.Add(-1) == 0 {
		close(w.done)
	}
}

// wait waits until all of ps are done, withdrawing those that are not in time.
func (w *call) wait(ctx context.Context, hold time.Duration, ps []waiter) {
	select {
	case <-w.done:
		return
	default:
	}
	timer := time.NewTimer(hold)
	defer timer.Stop()
	var err error
	select {
	case <-w.done:
		return
	case <-timer.C:
		err = broker.ErrTimeout
	case <-ctx.Done():
		err = ctx.Err()
	}
	for i := range ps {
		ps[i].channel.withdraw(&ps[i], err)
	}
}
