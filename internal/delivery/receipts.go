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
	conn           peer // nil: unknown, so what was sent counts as arrived
	maxUnconfirmed int  // how many sent messages may be unconfirmed before the connection is checked
	arrived        int
	acked          uint64 // how many bytes the peer had acknowledged at the last check that found some queued

	// When the peer has acknowledged the bytes of the connection up to mark, marked messages have arrived.
	mark   uint64
	marked int

	// On HTTP/2, a flush hands the data to another goroutine, which writes it at once, but a moment later. So what was sent
	// before a checkpoint counts as written only when flushDelay has passed since the checkpoint. If the connection is so
	// full that the other goroutine must wait, up to buffered bytes may not be written even then.
	//
	// The bytes that the peer has acknowledged since the checkpoint cannot replace this time: they may belong to another
	// stream. Nor can we demand in addition that they are as many as were flushed: if something on the way compresses,
	// there are fewer.
	flushDelay   time.Duration
	buffered     uint64
	checkpoint   int
	checkpointAt time.Time
}

// A peer reports how many bytes the other side of a connection has acknowledged, and how many bytes were written that it
// has not acknowledged: see [receipt.Conn].
type peer interface {
	State() (acked uint64, queued int, err error)
}

const (
	// http2FlushDelay is how long data may take from a flush on HTTP/2 to the kernel.
	http2FlushDelay = 2 * time.Millisecond
	// http2Buffer is the size of net/http's buffer for an HTTP/2 connection, with what TLS adds.
	http2Buffer = 5 << 10
)

func newReceipts(r *http.Request, window int) receipts {
	rc := receipts{maxUnconfirmed: max(1, window/2)}
	if r.ProtoMajor > 2 {
		return rc
	}
	if c := conn.Of(r); c != nil {
		if c := receipt.Of(c); c != nil {
			rc.conn = c
		}
	}
	if r.ProtoMajor == 2 {
		rc.flushDelay, rc.buffered = http2FlushDelay, http2Buffer
	}
	return rc
}

// due reports whether so many messages are unconfirmed that it is time to check the connection.
func (rc *receipts) due(sent int) bool { return rc.conn == nil || sent-rc.arrived >= rc.maxUnconfirmed }

// update checks the connection and returns how many of the sent messages have arrived.
func (rc *receipts) update(sent int) (arrived int) {
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
		rc.acked = acked
		if acked >= rc.mark {
			rc.arrived = max(rc.arrived, rc.marked)
		}
		if rc.arrived >= rc.marked {
			rc.mark, rc.marked = acked+uint64(queued)+rc.buffered, written //nolint:gosec // not negative
		}
	}
	return rc.arrived
}

// written returns how many of the sent messages were certainly written to the connection.
func (rc *receipts) written(sent int) int {
	if rc.flushDelay == 0 {
		return sent
	}
	now := time.Now()
	written := rc.arrived
	if now.Sub(rc.checkpointAt) >= rc.flushDelay {
		written = max(written, rc.checkpoint)
		rc.checkpoint, rc.checkpointAt = sent, now
	}
	return written
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

// endOf returns how the read ends for the channel. The end is clean if the client's machine has received everything that
// was sent, for which endOf waits up to maxFinalCheck.
func (d *Delivery) endOf(reason transport.Reason) broker.End {
	switch {
	case reason == transport.Broken:
		return broker.EndFault
	case d.follows, d.sub.Err() != nil:
		return broker.EndClean // there is nothing to settle
	}
	select {
	case <-d.transport.Gone(): // the client left just as the read ended
		return broker.EndFault
	default:
	}
	deadline := time.Now().Add(maxFinalCheck)
	for pause := time.Millisecond; d.receipts.update(d.sent) < d.sent; pause *= 2 {
		left := time.Until(deadline)
		if left <= 0 {
			return broker.EndFault
		}
		select {
		case <-time.After(min(pause, left)):
		case <-d.sub.Done():
			return broker.EndClean // there is nothing to settle any more
		case <-d.transport.Gone():
			return broker.EndFault
		}
	}
	d.sub.Received(d.sent)
	return broker.EndClean
}
