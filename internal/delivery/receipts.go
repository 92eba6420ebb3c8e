package delivery

import (
	"errors"
	"net/http"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/receipt"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// receipts finds out how many of the sent messages have arrived at the client's machine (protocol.md 2.1).
type receipts struct {
	conn           peer // nil: unknown
	maxUnconfirmed int  // how many sent messages may be unconfirmed before the connection is checked
	arrived        int
	acked          uint64 // how many bytes the peer had acknowledged at the last check that found some queued

	// When the peer has acknowledged the bytes of the connection up to mark, marked messages have arrived.
	mark   uint64
	marked int

	http2 *http2Writes // nil: a flush writes to the socket
}

// A peer reports what became of the bytes of a connection: see [receipt.Conn].
type peer interface {
	State() (acked uint64, queued int, err error)
	Written() (uint64, error)
}

// newReceipts returns the receipts for the response to r that has the header.
func newReceipts(r *http.Request, header http.Header, window int) receipts {
	rc := receipts{maxUnconfirmed: max(1, window/2)}
	if r.ProtoMajor > 2 {
		return rc
	}
	c := conn.Of(r)
	if c == nil {
		return rc
	}
	state := receipt.Of(c)
	switch {
	case state == nil:
	case r.ProtoMajor < 2:
		rc.conn = state
	case state.Counts():
		rc.conn, rc.http2 = state, &http2Writes{conn: state, header: header}
	}
	return rc
}

// known reports whether the system tells what has arrived. If it does not, what was sent counts as arrived as long as the
// read lasts, but not for its end.
func (rc *receipts) known() bool { return rc.conn != nil }

// due reports whether so many messages are unconfirmed that it is time to check the connection.
func (rc *receipts) due(sent int) bool { return !rc.known() || sent-rc.arrived >= rc.maxUnconfirmed }

// update checks the connection and returns how many of the sent messages have arrived.
func (rc *receipts) update(sent int) (arrived int) {
	if !rc.known() {
		rc.arrived = sent
		return sent
	}
	written, buffered := sent, uint64(0) // so many messages are in the socket, and the rest within so many bytes behind it
	if rc.http2 != nil {
		written, buffered = rc.http2.count(), http2Buffer
	}
	acked, queued, err := rc.conn.State()
	switch {
	case err != nil:
	case queued == 0:
		rc.arrived = max(rc.arrived, written)
	default:
		rc.acked = acked
		if acked >= rc.mark {
			rc.arrived = max(rc.arrived, rc.marked)
		}
		if rc.arrived >= rc.marked {
			rc.mark, rc.marked = acked+uint64(queued)+buffered, sent //nolint:gosec // not negative
		}
	}
	return rc.arrived
}

const (
	// maxCheckPause is the longest time between two checks of a connection that stalls.
	maxCheckPause = 250 * time.Millisecond
	// maxFinalCheck is how long the clean end of a read waits until the client's machine has acknowledged everything.
	maxFinalCheck = 250 * time.Millisecond
)

var errStalled = errors.New("the client takes nothing")

// checkReceipts checks whether something has arrived since the window is full. If not, it sets the time of the next check.
// It fails when the client has acknowledged nothing for too long.
func (d *Delivery) checkReceipts() error {
	d.checkAt = time.Time{}
	if d.receipts.arrived == d.sent {
		return nil // the client has everything, and the window waits for it to acknowledge messages
	}
	if before := d.receipts.arrived; d.receipts.update(d.sent) > before {
		d.stalledSince = time.Time{}
		d.sub.Received(d.receipts.arrived)
		return nil
	}
	now := time.Now()
	if d.stalledSince.IsZero() {
		d.checkPause = time.Millisecond
	}
	if d.stalledSince.IsZero() || d.receipts.acked > d.stalledAcked { // slow is not stalled
		d.stalledSince, d.stalledAcked = now, d.receipts.acked
	}
	left := d.writeTimeout - now.Sub(d.stalledSince)
	if left <= 0 {
		return errStalled
	}
	d.checkAt = now.Add(min(d.checkPause, left))
	d.checkPause = min(2*d.checkPause, maxCheckPause)
	return nil
}

// isClosed reports whether the Broker closes. Its channels may outlive it, so it should hear what was received.
func (d *Delivery) isClosed() bool { return errors.Is(d.sub.Err(), broker.ErrClosed) }

// endOf returns how the read ends for the channel. The end is clean if the client's machine has received everything that
// was sent, for which endOf waits up to maxFinalCheck.
func (d *Delivery) endOf(reason transport.Reason) broker.End {
	switch {
	case reason == transport.Broken:
		return broker.EndFault
	case d.follows, d.sub.Err() != nil && !d.isClosed():
		return broker.EndClean // there is nothing to settle
	}
	select {
	case <-d.transport.Gone(): // the client left just as the read ended
		return broker.EndFault
	default:
	}
	deadline := time.Now().Add(maxFinalCheck)
	for pause := time.Millisecond; d.receipts.update(d.sent) < d.sent && !d.isClosed(); pause *= 2 {
		left := time.Until(deadline)
		if left <= 0 {
			break
		}
		select {
		case <-time.After(min(pause, left)):
		case <-d.sub.Done():
			if !d.isClosed() {
				return broker.EndClean // there is nothing to settle any more
			}
		case <-d.transport.Gone():
			return broker.EndFault
		}
	}
	d.sub.Received(d.receipts.arrived)
	switch {
	case d.redeliver, !d.receipts.known():
		return broker.EndUnconfirmed
	case d.receipts.arrived < d.sent:
		return broker.EndFault
	}
	return broker.EndClean
}
