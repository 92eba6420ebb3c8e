package disk

import (
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/brokertest"
)

// smallSegment is the size of segments in tests, so that tests use several.
const smallSegment = 64 << 10

func TestTheBrokerKeepsTheContract(t *testing.T) {
	for name, durability := range map[string]Durability{"process": Process, "disk": Disk} {
		t.Run(name, func(t *testing.T) {
			brokertest.Run(t, brokertest.Options{New: func(t *testing.T) broker.Broker {
				return openTest(t, &testFolder{}, durability)
			}})
		})
	}
}
