package memory_test

import (
	"os"
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/brokertest"
	"github.com/caddy-megaphone/megaphone/broker/memory"
)

func newBroker(*testing.T) broker.Broker { return memory.New() }

func TestTheBrokerKeepsTheContract(t *testing.T) {
	brokertest.Run(t, brokertest.Options{New: newBroker})
}

func TestTheBrokerKeepsTheContractInRealTime(t *testing.T) {
	if os.Getenv("MEGAPHONE_REALTIME") == "" {
		t.Skip("takes some 15 seconds: set MEGAPHONE_REALTIME=1 to run it")
	}
	brokertest.Run(t, brokertest.Options{New: newBroker, RealTime: true})
}
