package megaphone

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

// However many waits the exit has one after the other, all are over within a second.
func TestTheWaitsOfTheExitShareTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newRegistry(memory.New())
		time.Sleep(time.Minute)
		s.Close()
		began := time.Now()
		for _, limit := range []time.Duration{maxExitEvents, maxFarewells, webhook.MaxExitLinger} {
			time.Sleep(s.exitTime(limit))
		}
		if took := time.Since(began); took < maxFarewells || took >= time.Second {
			t.Errorf("the exit takes %s", took)
		}
	})
}
