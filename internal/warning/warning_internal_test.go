package warning

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAWarningIsWrittenNowAndThenAndCountsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Limiter
		if n := l.Due(1); n != 1 {
			t.Errorf("the first call is due for %d occurrences, want 1", n)
		}
		for range 5 {
			if n := l.Due(2); n != 0 {
				t.Errorf("a call soon after is due for %d occurrences, want 0", n)
			}
		}
		time.Sleep(interval)
		if n := l.Due(1); n != 11 {
			t.Errorf("a call after the interval is due for %d occurrences, want 11", n)
		}
	})
}

func TestRestReturnsWhatWasNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Limiter
		l.Due(1)
		l.Due(2)
		if n := l.Rest(); n != 2 {
			t.Errorf("%d occurrences are left, want 2", n)
		}
		if n := l.Rest(); n != 0 {
			t.Errorf("%d occurrences are left after that, want 0", n)
		}
	})
}
