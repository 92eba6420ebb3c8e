package megaphone_test

import (
	"testing"

	"github.com/caddy-megaphone/megaphone"
	"github.com/caddy-megaphone/megaphone/brokertest"
)

func TestRegistryIsABroker(t *testing.T) {
	brokertest.Run(t, func() (megaphone.Broker, func()) {
		r := megaphone.NewRegistry()
		return r, r.Close
	})
}
