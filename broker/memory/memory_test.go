package memory_test

import (
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/brokertest"
	"github.com/caddy-megaphone/megaphone/broker/memory"
)

func TestRegistryIsABroker(t *testing.T) {
	brokertest.Run(t, func() (broker.Broker, func()) {
		r := memory.New()
		return r, r.Close
	})
}
