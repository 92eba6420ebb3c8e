package memory

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// timeOf returns how long a call keeps a processor busy. Other programs that want the processor do not count.
func timeOf(tb testing.TB, call func()) time.Duration {
	tb.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	now := func() time.Duration {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
			tb.Fatal(err)
		}
		return time.Duration(ts.Nano())
	}
	start := now()
	call()
	return now() - start
}
