package delivery

import (
	"net/http"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/receipt"
)

// receipts knows how many of the messages sent on a connection have arrived at the client's machine
// (protocol.md 2.1).
type receipts struct {
	conn peer // nil: unknown, so what is sent counts as arrived
	// patience is how many messages are sent without a look at the connection.
	patience int
	arrived  int
	acked    uint64 // the bytes that the peer had acknowledged at the last look, if some were queued

	// When the peer has acknowledged the connection's bytes up to mark, marked messages have arrived.
	mark   uint64
	marked int

	// On HTTP/2 a flush hands the data to another goroutine, which writes it at once but a moment later. There,
	// what was sent before a checkpoint counts as written only when settling has passed since. If the connection
	// is so full that the other goroutine waits, up to slack bytes may not be written even then.
	// That the peer has acknowledged as many bytes as were flushed since would be no proof instead of that time: they may
	// be another stream's. And it must not be asked for in addition: where something on the way compresses, there are fewer.
	settling     time.Duration
	slack        uint64
	checkpoint   int
	checkpointAt time.Time
}

// A peer tells how many bytes the other side of a connection has acknowledged, and how many that were written it
// has not: see [receipt.Conn].
type peer interface {
	State() (acked uint64, queued int, err error)
}

const (
	// settling is how long data may take from HTTP/2's flush to the kernel.
	settling = 2 * time.Millisecond
	// slack is the buffer that net/http has for each HTTP/2 connection, with what TLS adds.
	slack = 5 << 10
)

func newReceipts(r *http.Request, window int) receipts {
	rc := receipts{patience: max(1, window/2)}
	if r.ProtoMajor > 2 {
		return rc
	}
	if c := conn.Of(r); c != nil {
		if c := receipt.Of(c); c != nil {
			rc.conn = c
		}
	}
	if r.ProtoMajor == 2 {
		rc.settling, rc.slack = settling, slack
	}
	return rc
}

// due reports whether enough was sent since something arrived that it is time for a look.
func (rc *receipts) due(sent int) bool { return rc.conn == nil || sent-rc.arrived >= rc.patience }

// update looks at the connection and returns how many of the messages sent have arrived.
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
			rc.mark, rc.marked = acked+uint64(queued)+rc.slack, written //nolint:gosec // not negative
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
