package megaphone

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAWarningComesNowAndThenAndCountsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w warning
		if n := w.due(1); n != 1 {
			t.Errorf("first: %d", n)
		}
		for range 5 {
			if n := w.due(2); n != 0 {
				t.Errorf("at once again: %d", n)
			}
		}
		time.Sleep(warningInterval)
		if n := w.due(1); n != 11 {
			t.Errorf("later: %d", n)
		}
	})
}
