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
	// MaxTake is how many bytes of lines are taken from the channel for one flush.
	MaxTake = 64 << 10
	// MaxSpread is the time over which the streams of a configuration end that was replaced, so that their
	// clients do not all come back at once.
	MaxSpread = 20 * time.Second
	// minDrained is how long a read of a drained channel lasts at least. Its client may come back at once.
	minDrained = time.Second
	// maxLastLook is how long the clean end of a read waits for the client's machine to acknowledge.
	maxLastLook = 250 * time.Millisecond
)

// Options say what a [Delivery] delivers, and how.
type Options struct {
	Subscription broker.Subscription
	Transport    transport.Transport
	// Request is the read that the transport answers. The delivery asks its connection what has arrived.
	Request *http.Request
	// Window is the size of the in-flight window, in messages.
	Window int
	// Duration is how long the read lasts.
	Duration time.Duration
	// Heartbeat is the time between two heartbeats; 0 means none.
	Heartbeat time.Duration
	// WriteTimeout is how long the client may acknowledge nothing while the window is full.
	WriteTimeout time.Duration
	// Unloaded is closed when the read should end because its configuration was replaced. Nil means never.
	Unloaded <-chan struct{}
	// Follows says that the channel follows cursors, so that a clean end settles nothing.
	Follows bool
}

// A Delivery delivers the messages of a subscription through a transport. Its methods are for one goroutine at a time,
// except wake.
type Delivery struct {
	sub       broker.Subscription
	transport transport.Transport
	receipts  receipts

	duration     time.Duration
	heartbeat    time.Duration   // 0: none
	writeTimeout time.Duration   // how long a client may acknowledge nothing
	unloaded     <-chan struct{} // closed when the read should end because its configuration was replaced
	follows      bool            // the reader follows cursors, so that a clean end settles nothing

	started     bool // the transport was
	startErr    error
	begunAt     time.Time // when it was
	endAt       time.Time // when the read is to end
	heartbeatAt time.Time // when the next heartbeat is due, if there are any
	checkAt     time.Time // when the connection is to be looked at again, because the window is full; zero: not at all
	parking     parking

	ms      []*broker.Message // for Take
	sent    int
	why     transport.Reason // why the read has ended
	stalled time.Time        // since when the window is full and nothing is acknowledged
	acked   uint64           // the bytes acknowledged then
	pause   time.Duration    // until the next look at the connection
	moving  bool             // the configuration was replaced, or the channel is drained
}

// New returns a delivery that has not begun.
func New(o Options) *Delivery {
	return &Delivery{
		sub:          o.Subscription,
		transport:    o.Transport,
		receipts:     newReceipts(o.Request, o.Window),
		duration:     o.Duration,
		heartbeat:    o.Heartbeat,
		writeTimeout: o.WriteTimeout,
		unloaded:     o.Unloaded,
		follows:      o.Follows,
	}
}

// Start tells the client that the read has begun, unless it was told.
func (f *Delivery) Start() error {
	if !f.started {
		f.started, f.startErr = true, f.transport.Start()
		f.begunAt = time.Now()
		f.endAt, f.heartbeatAt = f.begunAt.Add(f.duration), f.begunAt.Add(f.heartbeat)
	}
	return f.startErr
}

// Deliver delivers messages until the read has ended, or is parked, which it reports. After the end it has ended the
// subscription and the response.
func (f *Delivery) Deliver() (parked bool) {
	how := broker.EndFault // in case of a panic
	f.why = transport.Broken
	defer func() {
		if parked {
			return // another goroutine may have it by now
		}
		f.sub.End(how)
		f.transport.End(f.why)
	}()
	why, parked := f.run()
	if parked {
		return true
	}
	f.why, how = why, f.endOf(why)
	return false
}

// Sent returns how many messages the client has been sent.
func (f *Delivery) Sent() int { return f.sent }

// Reason returns why the read has ended.
func (f *Delivery) Reason() transport.Reason { return f.why }

// run passes messages on until the read has lasted its duration, the subscription is over, or the client is gone. If the
// read can be parked, run returns when it is, and goes on with the next call.
func (f *Delivery) run() (why transport.Reason, parked bool) {
	if f.Start() != nil {
		return transport.Broken, false
	}
	idle := f.newIdleness()
	next := f.nextDue()
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	for {
		if idle.now() && f.Park() {
			return 0, true
		}
		if due := earliest(f.nextDue(), idle.next); !due.Equal(next) {
			next = due
			timer.Reset(time.Until(due))
		}
		var err error
		select {
		case <-f.sub.Ready():
			err = f.send()
		case <-timer.C:
			now := time.Now()
			if !now.Before(f.endAt) {
				return f.ended(), false
			}
			idle.check(now)
			err = f.doDue(now)
			next = time.Time{}
		case <-f.unloaded:
			f.unloaded = nil
			f.endBy(time.Now().Add(rand.N(MaxSpread))) //nolint:gosec // no secret
		case <-f.sub.Done():
			return ReasonOf(f.sub.Err()), false
		case <-f.transport.Gone():
			return transport.Broken, false
		}
		if err != nil {
			return transport.Broken, false
		}
	}
}

// nextDue is when there is something to do, whatever happens.
func (f *Delivery) nextDue() time.Time {
	next := earliest(f.endAt, f.checkAt)
	if f.heartbeat > 0 {
		next = earliest(next, f.heartbeatAt)
	}
	return next
}

// earliest returns the earlier time; a zero one is none.
func earliest(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

// doDue does what is due, but for the end.
func (f *Delivery) doDue(now time.Time) error {
	if !f.checkAt.IsZero() && !now.Before(f.checkAt) {
		if err := f.checkReceipts(); err != nil {
			return err
		}
	}
	if f.heartbeat > 0 && !now.Before(f.heartbeatAt) {
		if f.heartbeatAt = f.heartbeatAt.Add(f.heartbeat); f.heartbeatAt.Before(now) {
			f.heartbeatAt = now.Add(f.heartbeat)
		}
		return f.transport.Heartbeat()
	}
	return nil
}

// endBy lets the read end because its client should come to another server or configuration, at a time at the latest.
func (f *Delivery) endBy(at time.Time) {
	f.moving, f.endAt = true, earliest(f.endAt, at)
}

// ended is why a read ends whose time has come.
func (f *Delivery) ended() transport.Reason {
	if f.moving {
		return transport.GoingAway
	}
	return transport.Complete
}

// send sends what there is to send.
func (f *Delivery) send() error {
	// Producers that are ready to run go first: what they write to this channel leaves in the same write to the
	// socket. That is worth a tenth where several share a channel (bench: write-8), and nothing waits when none is ready.
	runtime.Gosched()
	ms, full := f.sub.Take(f.ms[:0], MaxTake)
	f.ms = ms
	if len(ms) > 0 {
		for _, m := range ms {
			f.transport.Append(m.ID(), m.Line())
		}
		clear(ms) // an idle reader keeps no message alive
		if err := f.transport.Flush(); err != nil {
			return err
		}
		f.sent += len(ms)
		f.stalled = time.Time{}
		if f.receipts.due(f.sent) {
			f.sub.Received(f.receipts.update(f.sent))
		}
	}
	f.checkAt = time.Time{}
	if f.sub.Drained() {
		f.endBy(f.begunAt.Add(minDrained))
	}
	if full {
		return f.checkReceipts()
	}
	return nil
}

// checkReceipts looks whether something has arrived since the window is full. If not, it says when to look again.
func (f *Delivery) checkReceipts() error {
	f.checkAt = time.Time{}
	if f.receipts.arrived == f.sent {
		return nil // the client has it all: it is to acknowledge it now
	}
	if before := f.receipts.arrived; f.receipts.update(f.sent) > before {
		f.stalled = time.Time{}
		f.sub.Received(f.receipts.arrived)
		return nil
	}
	now := time.Now()
	if f.stalled.IsZero() {
		f.pause = time.Millisecond
	}
	if f.stalled.IsZero() || f.receipts.acked > f.acked { // a slow client is none that takes nothing
		f.stalled, f.acked = now, f.receipts.acked
	}
	left := f.writeTimeout - now.Sub(f.stalled)
	if left <= 0 {
		return errStalled
	}
	f.checkAt = now.Add(min(f.pause, left))
	f.pause = min(2*f.pause, maxPause)
	return nil
}

// maxPause is the longest time between two looks at a connection that stalls.
const maxPause = 250 * time.Millisecond

var errStalled = errors.New("the client takes nothing")

// ReasonOf says why a subscription is over.
func ReasonOf(err error) transport.Reason {
	switch {
	case errors.Is(err, broker.ErrNotFound):
		return transport.Deleted
	case errors.Is(err, broker.ErrTakenOver):
		return transport.TakenOver
	}
	return transport.GoingAway
}

// endOf says how the read ends for the channel. The end is a clean one if the client's machine has received all
// that it was sent, for which it gets a little time.
func (f *Delivery) endOf(why transport.Reason) broker.End {
	switch {
	case why == transport.Broken:
		return broker.EndFault
	case f.follows, f.sub.Err() != nil:
		return broker.EndClean // there is nothing to settle
	}
	select {
	case <-f.transport.Gone(): // at the same moment as the read's end came
		return broker.EndFault
	default:
	}
	deadline := time.Now().Add(maxLastLook)
	for pause := time.Millisecond; f.receipts.update(f.sent) < f.sent; pause *= 2 {
		left := time.Until(deadline)
		if left <= 0 {
			return broker.EndFault
		}
		select {
		case <-time.After(min(pause, left)):
		case <-f.sub.Done():
			return broker.EndClean // as above
		case <-f.transport.Gone():
			return broker.EndFault
		}
	}
	f.sub.Received(f.sent)
	return broker.EndClean
}
