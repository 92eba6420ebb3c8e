package memory

import (
	"math"

	"github.com/puzpuzpuz/xsync/v4"
)

// quotas counts the live channels of each client, so that no client can use up the channels that all share. Any text
// can name a client. Only clients that have channels take memory.
type quotas struct {
	channels *xsync.Map[string, int] // by client
}

// reserve counts one more channel of a client, unless the client has reached the limit. It reports whether it did.
func (q *quotas) reserve(client string, limit int) (ok bool) {
	q.channels.Compute(client, func(n int, _ bool) (int, xsync.ComputeOp) {
		if n >= limit {
			return n, xsync.CancelOp
		}
		ok = true
		return n + 1, xsync.UpdateOp
	})
	return ok
}

// release counts one channel of a client less.
func (q *quotas) release(client string) {
	q.channels.Compute(client, func(n int, _ bool) (int, xsync.ComputeOp) {
		if n <= 1 {
			return 0, xsync.DeleteOp
		}
		return n - 1, xsync.UpdateOp
	})
}

// restore counts one more channel of a client, whatever the limit is.
func (q *quotas) restore(client string) { q.reserve(client, math.MaxInt) }
