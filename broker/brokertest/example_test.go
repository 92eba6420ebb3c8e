package brokertest_test

import (
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/brokertest"
	"github.com/caddy-megaphone/megaphone/broker/memory"
)

// A test of a Broker of your own runs the whole contract against it. New opens an empty Broker for each test.
func ExampleRun() { //nolint:testableexamples // a test runs it, not an example
	_ = func(t *testing.T) { // func TestBroker(t *testing.T)
		brokertest.Run(t, brokertest.Options{
			New: func(*testing.T) broker.Broker { return memory.New() },
		})
	}
}
