// Package warning keeps repeated warnings out of the log. It knows nothing of logs: its users write them.
package warning

import (
	"sync/atomic"
	"time"
)

// interval is the shortest time between two lines of one warning.
const interval = 10 * time.Second

// A Limiter decides when a warning is written, and counts what the warning is about. The zero value is ready to use. Any
// number of goroutines may call its methods.
type Limiter struct {
	next  atomic.Int64 // when the warning may be written again, in nanoseconds of Unix time
	count atomic.Int64 // since the warning was last written
}

// Due counts n more occurrences. If the caller should write the warning now, Due returns how many occurrences there were
// since the warning was last written. Otherwise it returns 0. The first call is due at once, later ones at most every
// 10 seconds.
func (l *Limiter) Due(n int) int64 {
	l.count.Add(int64(n))
	now, next := time.Now(), l.next.Load()
	if now.UnixNano() < next || !l.next.CompareAndSwap(next, now.Add(interval).UnixNano()) {
		return 0
	}
	return l.count.Swap(0)
}

// Rest returns how many occurrences there were since the warning was last written, and counts from zero again. It is for
// a last line when the condition is over, however soon after the line before.
func (l *Limiter) Rest() int64 { return l.count.Swap(0) }
