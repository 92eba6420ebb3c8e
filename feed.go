package megaphone

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-megaphone/megaphone/internal/receipt"
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
	sub       Subscription
	transport transport.Transport
	receipts  receipts

	duration     time.Duration
	heartbeat    time.Duration   // 0: none
	writeTimeout time.Duration   // how long a client may acknowledge nothing
	unloaded     <-chan struct{} // closed when the read should end because its configuration was replaced
	follows      bool            // the reader follows cursors, so that a clean end settles nothing

	ms      []*Message // for Take
	sent    int
	stalled time.Time     // since when the window is full and nothing arrives
	pause   time.Duration // until the next look at the connection
	moving  bool          // the configuration was replaced, or the channel is drained
}

// run passes messages on until the read has lasted its duration, the subscription is over, or the client is gone.
func (f *feed) run() transport.Reason {
	if err := f.transport.Start(); err != nil {
		return transport.Broken
	}
	earliest, ends := time.Now().Add(minDrained), time.Now().Add(f.duration)
	end := time.NewTimer(f.duration)
	defer end.Stop()
	var heartbeat <-chan time.Time
	if f.heartbeat > 0 {
		ticker := time.NewTicker(f.heartbeat)
		defer ticker.Stop()
		heartbeat = ticker.C
	}

	var look <-chan time.Time // is due when the window is full and the connection is to be looked at again
	for {
		var err error
		select {
		case <-f.sub.Ready():
			look, err = f.pass()
			if f.sub.Drained() {
				f.moving = true
				end.Reset(min(time.Until(earliest), time.Until(ends)))
			}
		case <-look:
			look, err = f.look()
		case <-heartbeat:
			err = f.transport.Heartbeat()
		case <-f.unloaded:
			f.unloaded, f.moving = nil, true
			end.Reset(min(rand.N(maxSpread), time.Until(ends))) //nolint:gosec // no secret
		case <-end.C:
			if f.moving {
				return transport.GoingAway
			}
			return transport.Complete
		case <-f.sub.Done():
			return overReason(f.sub.Err())
		case <-f.transport.Gone():
			return transport.Broken
		}
		if err != nil {
			return transport.Broken
		}
	}
}

// pass sends what there is to send.
func (f *feed) pass() (look <-chan time.Time, err error) {
	ms, full := f.sub.Take(f.ms[:0], maxTake)
	f.ms = ms
	if len(ms) > 0 {
		for _, m := range ms {
			f.transport.Append(m.ID(), m.Line())
		}
		clear(ms) // an idle reader keeps no message alive
		if err := f.transport.Flush(); err != nil {
			return nil, err
		}
		f.sent += len(ms)
		f.stalled = time.Time{}
		if f.receipts.due(f.sent) {
			f.sub.Received(f.receipts.look(f.sent))
		}
	}
	if full {
		return f.look()
	}
	return nil, nil
}

// look looks whether something has arrived since the window is full. If not, it says when to look again.
func (f *feed) look() (again <-chan time.Time, err error) {
	if f.receipts.arrived == f.sent {
		return nil, nil // the client has it all: it is to acknowledge it now
	}
	if before := f.receipts.arrived; f.receipts.look(f.sent) > before {
		f.stalled = time.Time{}
		f.sub.Received(f.receipts.arrived)
		return nil, nil
	}
	now := time.Now()
	if f.stalled.IsZero() {
		f.stalled, f.pause = now, time.Millisecond
	}
	left := f.writeTimeout - now.Sub(f.stalled)
	if left <= 0 {
		return nil, errStalled
	}
	again = time.After(min(f.pause, left))
	f.pause = min(2*f.pause, maxPause)
	return again, nil
}

// maxPause is the longest time between two looks at a connection that stalls.
const maxPause = 250 * time.Millisecond

var errStalled = errors.New("the client takes nothing")

// overReason says why a subscription is over.
func overReason(err error) transport.Reason {
	switch {
	case errors.Is(err, ErrNotFound):
		return transport.Deleted
	case errors.Is(err, ErrTakenOver):
		return transport.TakenOver
	}
	return transport.GoingAway
}

// how says how the read ends for the channel. The end is a clean one if the client's machine has received all
// that it was sent, for which it gets a little time.
func (f *feed) how(why transport.Reason) End {
	switch {
	case why == transport.Broken:
		return EndFault
	case f.follows, f.sub.Err() != nil:
		return EndClean // there is nothing to settle
	}
	deadline := time.Now().Add(maxLastLook)
	for pause := time.Millisecond; f.receipts.look(f.sent) < f.sent; pause *= 2 {
		left := time.Until(deadline)
		if left <= 0 {
			return EndFault
		}
		select {
		case <-time.After(min(pause, left)):
		case <-f.transport.Gone():
			return EndFault
		}
	}
	f.sub.Received(f.sent)
	return EndClean
}

// receipts knows how many of the messages sent on a connection have arrived at the client's machine
// (protocol.md 2.1).
type receipts struct {
	conn *receipt.Conn // nil: unknown, so what is sent counts as arrived
	// patience is how many messages are sent without a look at the connection.
	patience int
	arrived  int

	// When the peer has acknowledged the connection's bytes up to mark, marked messages have arrived.
	mark   uint64
	marked int

	// On HTTP/2 a flush hands the data to another goroutine, which writes it at once but a moment later. There,
	// what was sent before a checkpoint counts as written only when settling has passed since.
	settling     time.Duration
	checkpoint   int
	checkpointAt time.Time
}

// settling is how long data may take from HTTP/2's flush to the kernel.
const settling = 2 * time.Millisecond

func newReceipts(r *http.Request, window int) receipts {
	rc := receipts{patience: max(1, window/2)}
	if r.ProtoMajor > 2 {
		return rc
	}
	if conn, ok := r.Context().Value(caddyhttp.ConnCtxKey).(net.Conn); ok {
		rc.conn = receipt.Of(conn)
	}
	if r.ProtoMajor == 2 {
		rc.settling = settling
	}
	return rc
}

// due reports whether enough was sent since something arrived that it is time for a look.
func (rc *receipts) due(sent int) bool { return rc.conn == nil || sent-rc.arrived >= rc.patience }

// look looks at the connection and returns how many of the messages sent have arrived.
func (rc *receipts) look(sent int) (arrived int) {
	if rc.conn == nil {
		rc.arrived = sent
		return sent
	}
	written := rc.written(sent)
	acked, queued, err := rc.conn.State()
	switch {
	case err != nil:
	case queued == 0:
		rc.arrived = written
	default:
		if acked >= rc.mark {
			rc.arrived = max(rc.arrived, rc.marked)
		}
		if rc.arrived >= rc.marked {
			rc.mark, rc.marked = acked+uint64(queued), written //nolint:gosec // not negative
		}
	}
	return rc.arrived
}

// written returns how many of the messages sent have surely been written to the connection.
func (rc *receipts) written(sent int) int {
	if rc.settling == 0 {
		return sent
	}
	now := time.Now()
	written := rc.arrived
	if now.Sub(rc.checkpointAt) >= rc.settling {
		written = max(written, rc.checkpoint)
		rc.checkpoint, rc.checkpointAt = sent, now
	}
	return written
}
