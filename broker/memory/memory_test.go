package memory_test

import (
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/brokertest"
	"github.com/caddy-megaphone/megaphone/broker/memory"
)

func TestTheBrokerKeepsTheContract(t *testing.T) {
	newBroker := func(*testing.T) broker.Broker { return memory.New() }
	brokertest.Run(t, brokertest.Options{New: newBroker})
	if testing.Short() {
		return
	}
	brokertest.Run(t, brokertest.Options{New: newBroker, RealTime: true})
}
