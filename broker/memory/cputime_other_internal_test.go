//go:build !linux

package memory

import (
	"testing"
	"time"
)

// timeOf returns how long a call takes. This includes the time in which other programs use the processor.
func timeOf(_ testing.TB, call func()) time.Duration {
	start := time.Now()
	call()
	return time.Since(start)
}
