// Package clock is a cheap clock, for messages and direct writes. Each of them looks at it once. The package knows nothing
// of either. Any number of goroutines may call its functions.
package clock

import (
	"sync/atomic"
	"time"
)

// epoch is when the process started.
var epoch = time.Now()

// Now returns the time since the process started. It is monotonic.
func Now() time.Duration { return time.Since(epoch) }

// At returns the time on this clock for a time of day. If the system's clock was stepped since then, At is off by the
// step.
func At(t time.Time) time.Duration { return Now() - time.Since(t) }

// A Second is one second of the time of day.
type Second struct {
	// Unix is the second in Unix time.
	Unix int64
	// Text is the start of a timestamp in UTC, up to and including the point before its fraction (RFC 3339).
	Text string

	begin time.Duration // when the second began, on this clock
}

var lastSecond atomic.Pointer[Second]

// Wall returns the time of day for a time that [Now] has just returned: its second, which nobody may change, and the
// nanosecond within it. Wall asks the system and formats the text only once a second, because both are expensive. So it
// notices a step of the system's clock within a second.
func Wall(at time.Duration) (second *Second, nanosecond int) {
	if second = lastSecond.Load(); second != nil && at >= second.begin && at < second.begin+time.Second {
		return second, int(at - second.begin)
	}
	now := time.Now()
	second = &Second{
		Unix:  now.Unix(),
		Text:  now.UTC().Format("2006-01-02T15:04:05."),
		begin: now.Sub(epoch) - time.Duration(now.Nanosecond()),
	}
	lastSecond.Store(second)
	return second, now.Nanosecond()
}
