// Package delivery brings messages from a subscription to a client: the loop between a [broker.Subscription] and a
// [transport.Transport]. It finds out what has reached the client's machine, so that the in-flight window can move on
// (receipts.go). A read that waits can do without its handler (detach.go) and without a goroutine (park.go).
//
// The package knows nothing of how events are framed, nor of how channels are kept.
package delivery

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"runtime"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

const (
	// MaxTake is how many bytes of lines a delivery takes from the channel for one flush. The last line may exceed it.
	MaxTake = 64 << 10
	// MaxSpread is the time over which the streams of a replaced configuration end, so that their clients do not all come
	// back at once.
	MaxSpread = 20 * time.Second
	// minDrained is how long a read of a drained channel lasts at least. Its client may come back at once.
	minDrained = time.Second
)

// Options say what a [Delivery] delivers, and how.
type Options struct {
	// Subscription is where the messages come from. The delivery ends it.
	Subscription broker.Subscription
	// Transport sends the messages. The delivery starts and ends it.
	Transport transport.Transport
	// Request is the read that the transport answers. The state of its connection shows what has reached the client.
	Request *http.Request
	// Header is the header of the response.
	Header http.Header
	// Window is the size of the in-flight window, in messages.
	Window int
	// Duration is how long the read lasts, counted from Start.
	Duration time.Duration
	// Heartbeat is the time between two heartbeats; 0 means none.
	Heartbeat time.Duration
	// WriteTimeout is how long the client's machine may acknowledge nothing while the window is full. Then the read ends
	// as [transport.Broken].
	WriteTimeout time.Duration
	// Unloaded is closed when the configuration of the read is replaced. Then the read ends at a random moment within
	// MaxSpread, but no later than it would have. Nil means never.
	Unloaded <-chan struct{}
	// Follows says that the channel follows cursors, so that a clean end settles nothing.
	Follows bool
	// Redeliver says that the subscription was made with [broker.SubscribeOptions].Redeliver: what the client's machine
	// has acknowledged, the client may not have.
	Redeliver bool
}

// A Delivery delivers the messages of one read. Its methods are for one goroutine at a time.
type Delivery struct {
	sub       broker.Subscription
	transport transport.Transport
	receipts  receipts

	duration     time.Duration
	heartbeat    time.Duration   // 0: none
	writeTimeout time.Duration   // how long the client may acknowledge nothing
	unloaded     <-chan struct{} // closed when the read should end because its configuration was replaced
	follows      bool            // the channel follows cursors, so that a clean end settles nothing
	redeliver    bool            // what has arrived may not have arrived at the client

	started     bool // Start was called
	startErr    error
	startedAt   time.Time
	endAt       time.Time // when the read must end
	heartbeatAt time.Time // when the next heartbeat is due, if there are any
	checkAt     time.Time // when to check the connection again because the window is full; zero: never
	parking     parking

	ms           []*broker.Message // the memory for Take
	sent         int               // messages
	reason       transport.Reason  // why the read has ended
	stalledSince time.Time         // since when the window is full and nothing is acknowledged; zero: it is not so
	stalledAcked uint64            // how many bytes were acknowledged at stalledSince
	checkPause   time.Duration     // the time until the next check of the connection
	goingAway    bool              // the configuration was replaced, or the channel is drained
}

// New returns a delivery that has not started.
func New(o Options) *Delivery {
	return &Delivery{
		sub:          o.Subscription,
		transport:    o.Transport,
		receipts:     newReceipts(o.Request, o.Header, o.Window),
		duration:     o.Duration,
		heartbeat:    o.Heartbeat,
		writeTimeout: o.WriteTimeout,
		unloaded:     o.Unloaded,
		follows:      o.Follows,
		redeliver:    o.Redeliver,
	}
}

// Start starts the transport, which shows the client that the read has begun. Only the first call does so. Later calls
// return the same error.
func (d *Delivery) Start() error {
	if !d.started {
		d.started, d.startErr = true, d.transport.Start()
		d.startedAt = time.Now()
		d.endAt, d.heartbeatAt = d.startedAt.Add(d.duration), d.startedAt.Add(d.heartbeat)
	}
	return d.startErr
}

// Deliver delivers messages until the read has ended or is parked. It reports whether the read is parked: then another
// goroutine may have it already, so the caller must not use d any more. Otherwise Deliver has ended the subscription and
// the transport, even if it panics. Deliver starts the transport if Start was not called.
func (d *Delivery) Deliver() (parked bool) {
	how := broker.EndFault // for a panic
	d.reason = transport.Broken
	defer func() {
		if parked {
			return // another goroutine may have d already
		}
		d.end(how)
	}()
	reason, parked := d.run()
	if parked {
		return true
	}
	d.reason, how = reason, d.endOf(reason)
	return false
}

// Abort ends a read that is neither delivered nor parked, as broken, because something has panicked.
func (d *Delivery) Abort() {
	d.reason = transport.Broken
	d.end(broker.EndFault)
}

// end ends the subscription, and the transport even if that panics.
func (d *Delivery) end(how broker.End) {
	defer d.transport.End(d.reason)
	d.sub.End(how)
}

// Sent returns how many messages the client was sent. Call it after Deliver has returned false.
func (d *Delivery) Sent() int { return d.sent }

// Reason returns why the read has ended. Call it after Deliver has returned false.
func (d *Delivery) Reason() transport.Reason { return d.reason }

// run delivers messages until the read has lasted its duration, the subscription is over, or the client is gone. If the
// read can be parked, run also returns when it is parked. The next call continues the read.
func (d *Delivery) run() (reason transport.Reason, parked bool) {
	if d.Start() != nil {
		return transport.Broken, false
	}
	idle := d.newIdleness()
	next := d.nextDue()
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	for {
		if idle.isIdle() && d.Park() {
			return 0, true
		}
		if due := earliest(d.nextDue(), idle.next); !due.Equal(next) {
			next = due
			timer.Reset(time.Until(due))
		}
		var err error
		select {
		case <-d.sub.Ready():
			err = d.send()
		case <-timer.C:
			now := time.Now()
			if !now.Before(d.endAt) {
				return d.endReason(), false
			}
			idle.update(now)
			err = d.doDue(now)
			next = time.Time{}
		case <-d.unloaded:
			d.unloaded = nil
			d.endBy(time.Now().Add(rand.N(MaxSpread))) //nolint:gosec // no secret
		case <-d.sub.Done():
			return ReasonOf(d.sub.Err()), false
		case <-d.transport.Gone():
			return transport.Broken, false
		}
		if err != nil {
			return transport.Broken, false
		}
	}
}

// nextDue returns when there is something to do even if nothing happens until then.
func (d *Delivery) nextDue() time.Time {
	next := earliest(d.endAt, d.checkAt)
	if d.heartbeat > 0 {
		next = earliest(next, d.heartbeatAt)
	}
	return next
}

// earliest returns the earlier of two times. A zero time means never.
func earliest(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

// doDue does what is due, except for the end.
func (d *Delivery) doDue(now time.Time) error {
	if !d.checkAt.IsZero() && !now.Before(d.checkAt) {
		if err := d.checkReceipts(); err != nil {
			return err
		}
	}
	if d.heartbeat > 0 && !now.Before(d.heartbeatAt) {
		if d.heartbeatAt = d.heartbeatAt.Add(d.heartbeat); d.heartbeatAt.Before(now) {
			d.heartbeatAt = now.Add(d.heartbeat)
		}
		return d.transport.Heartbeat()
	}
	return nil
}

// endBy makes the read end at the given time or earlier, because its client should move to another server or
// configuration.
func (d *Delivery) endBy(at time.Time) {
	d.goingAway, d.endAt = true, earliest(d.endAt, at)
}

// endReason returns why the read ends when its time has come.
func (d *Delivery) endReason() transport.Reason {
	if d.goingAway {
		return transport.GoingAway
	}
	return transport.Complete
}

// send sends the messages that there are.
func (d *Delivery) send() error {
	// Producers that are ready to run go first: what they write to this channel leaves in the same write to the socket. If
	// several producers share a channel, that saves a tenth of the cost (bench: write-8). If none is ready, nothing waits.
	runtime.Gosched()
	ms, full := d.sub.Take(d.ms[:0], MaxTake)
	d.ms = ms
	if len(ms) > 0 {
		if h := d.receipts.http2; h != nil {
			h.before(ms)
		}
		for _, m := range ms {
			d.transport.Append(m.ID(), m.Line())
		}
		clear(ms) // an idle reader keeps no message alive
		if err := d.transport.Flush(); err != nil {
			return err
		}
		d.sent += len(ms)
		if h := d.receipts.http2; h != nil {
			h.after(d.sent)
		}
		d.stalledSince = time.Time{}
		if d.receipts.due(d.sent) {
			d.sub.Received(d.receipts.update(d.sent))
		}
	}
	d.checkAt = time.Time{}
	if d.sub.Drained() {
		d.endBy(d.startedAt.Add(minDrained))
	}
	if full && len(ms) == 0 && d.redeliver && d.receipts.arrived == d.sent {
		d.endAt = earliest(d.endAt, time.Now()) // nothing more may be sent before the client reads again
		return nil
	}
	if full {
		return d.checkReceipts()
	}
	return nil
}

// ReasonOf returns why a read ends when its subscription is over. err is the subscription's error.
func ReasonOf(err error) transport.Reason {
	switch {
	case errors.Is(err, broker.ErrNotFound):
		return transport.Deleted
	case errors.Is(err, broker.ErrTakenOver):
		return transport.TakenOver
	}
	return transport.GoingAway
}
