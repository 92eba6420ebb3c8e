package warning

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAWarningComesNowAndThenAndCountsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w Limiter
		if n := w.Due(1); n != 1 {
			t.Errorf("first: %d", n)
		}
		for range 5 {
			if n := w.Due(2); n != 0 {
				t.Errorf("at once again: %d", n)
			}
		}
		time.Sleep(interval)
		if n := w.Due(1); n != 11 {
			t.Errorf("later: %d", n)
		}
	})
}
