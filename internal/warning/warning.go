package warning

import (
	"sync/atomic"
	"time"
)

// A Limiter is a line in the log that is not written each time there is reason to.
type Limiter struct {
	next  atomic.Int64 // when it may be written again, in nanoseconds of Unix time
	count atomic.Int64
}

// Due counts n reasons for the warning. If it is to be written now, due returns how many there were since it was
// written last, and 0 otherwise.
func (w *Limiter) Due(n int) int64 {
	w.count.Add(int64(n))
	now, next := time.Now(), w.next.Load()
	if now.UnixNano() < next || !w.next.CompareAndSwap(next, now.Add(interval).UnixNano()) {
		return 0
	}
	return w.count.Swap(0)
}

// Rest returns how many reasons there were since the warning was written last.
func (w *Limiter) Rest() int64 { return w.count.Swap(0) }

// interval is the time between two warnings of a kind.
const interval = 10 * time.Second
