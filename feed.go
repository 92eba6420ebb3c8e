package megaphone

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

const (
	// maxTake is how many bytes of lines are taken from the channel for one flush.
	maxTake = 64 << 10
	// maxSpread is the time over which the streams of a configuration end that was replaced, so that their
	// clients do not all come back at once.
	maxSpread = 20 * time.Second
	// minDrained is how long a read of a drained channel lasts at least. Its client may come back at once.
	minDrained = time.Second
	// maxLastLook is how long the clean end of a read waits for the client's machine to acknowledge.
	maxLastLook = 250 * time.Millisecond
)

// A feed passes messages from a subscription to a transport.
type feed struct {
	sub       broker.Subscription
	transport transport.Transport
	receipts  receipts

	duration     time.Duration
	heartbeat    time.Duration   // 0: none
	writeTimeout time.Duration   // how long a client may acknowledge nothing
	unloaded     <-chan struct{} // closed when the read should end because its configuration was replaced
	follows      bool            // the reader follows cursors, so that a clean end settles nothing

	started  bool // the transport was
	startErr error
	begun    time.Time // when it was
	ends     time.Time // when the read is to end
	beats    time.Time // when the next heartbeat is due, if there are any
	looks    time.Time // when the connection is to be looked at again, because the window is full; zero: not at all
	parking  parking

	ms      []*broker.Message // for Take
	sent    int
	stalled time.Time     // since when the window is full and nothing is acknowledged
	acked   uint64        // the bytes acknowledged then
	pause   time.Duration // until the next look at the connection
	moving  bool          // the configuration was replaced, or the channel is drained
}

// start tells the client that the read has begun, unless it was told.
func (f *feed) start() error {
	if !f.started {
		f.started, f.startErr = true, f.transport.Start()
		f.begun = time.Now()
		f.ends, f.beats = f.begun.Add(f.duration), f.begun.Add(f.heartbeat)
	}
	return f.startErr
}

// run passes messages on until the read has lasted its duration, the subscription is over, or the client is gone. If the
// read can be parked, run returns when it is, and goes on with the next call.
func (f *feed) run() (why transport.Reason, parked bool) {
	if f.start() != nil {
		return transport.Broken, false
	}
	idle := f.newIdleness()
	next := f.next()
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	for {
		if idle.now() && f.park() {
			return 0, true
		}
		if due := earliest(f.next(), idle.next); !due.Equal(next) {
			next = due
			timer.Reset(time.Until(due))
		}
		var err error
		select {
		case <-f.sub.Ready():
			err = f.pass()
		case <-timer.C:
			now := time.Now()
			if !now.Before(f.ends) {
				return f.ended(), false
			}
			idle.look(now)
			err = f.due(now)
			next = time.Time{}
		case <-f.unloaded:
			f.unloaded = nil
			f.move(time.Now().Add(rand.N(maxSpread))) //nolint:gosec // no secret
		case <-f.sub.Done():
			return overReason(f.sub.Err()), false
		case <-f.transport.Gone():
			return transport.Broken, false
		}
		if err != nil {
			return transport.Broken, false
		}
	}
}

// next is when there is something to do, whatever happens.
func (f *feed) next() time.Time {
	next := earliest(f.ends, f.looks)
	if f.heartbeat > 0 {
		next = earliest(next, f.beats)
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

// due does what is due, but for the end.
func (f *feed) due(now time.Time) error {
	if !f.looks.IsZero() && !now.Before(f.looks) {
		if err := f.look(); err != nil {
			return err
		}
	}
	if f.heartbeat > 0 && !now.Before(f.beats) {
		if f.beats = f.beats.Add(f.heartbeat); f.beats.Before(now) {
			f.beats = now.Add(f.heartbeat)
		}
		return f.transport.Heartbeat()
	}
	return nil
}

// move lets the read end because its client should come to another server or configuration, at a time at the latest.
func (f *feed) move(at time.Time) {
	f.moving, f.ends = true, earliest(f.ends, at)
}

// ended is why a read ends whose time has come.
func (f *feed) ended() transport.Reason {
	if f.moving {
		return transport.GoingAway
	}
	return transport.Complete
}

// pass sends what there is to send.
func (f *feed) pass() error {
	// Producers that are ready to run go first: what they write to this channel leaves in the same write to the
	// socket. That is worth a tenth where several share a channel (bench: write-8), and nothing waits when none is ready.
	runtime.Gosched()
	ms, full := f.sub.Take(f.ms[:0], maxTake)
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
			f.sub.Received(f.receipts.look(f.sent))
		}
	}
	f.looks = time.Time{}
	if f.sub.Drained() {
		f.move(f.begun.Add(minDrained))
	}
	if full {
		return f.look()
	}
	return nil
}

// look looks whether something has arrived since the window is full. If not, it says when to look again.
func (f *feed) look() error {
	f.looks = time.Time{}
	if f.receipts.arrived == f.sent {
		return nil // the client has it all: it is to acknowledge it now
	}
	if before := f.receipts.arrived; f.receipts.look(f.sent) > before {
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
	f.looks = now.Add(min(f.pause, left))
	f.pause = min(2*f.pause, maxPause)
	return nil
}

// maxPause is the longest time between two looks at a connection that stalls.
const maxPause = 250 * time.Millisecond

var errStalled = errors.New("the client takes nothing")

// overReason says why a subscription is over.
func overReason(err error) transport.Reason {
	switch {
	case errors.Is(err, broker.ErrNotFound):
		return transport.Deleted
	case errors.Is(err, broker.ErrTakenOver):
		return transport.TakenOver
	}
	return transport.GoingAway
}

// how says how the read ends for the channel. The end is a clean one if the client's machine has received all
// that it was sent, for which it gets a little time.
func (f *feed) how(why transport.Reason) broker.End {
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
	for pause := time.Millisecond; f.receipts.look(f.sent) < f.sent; pause *= 2 {
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
