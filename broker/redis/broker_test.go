package redis_test

import (
	"crypto/rand"
	"testing"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/brokertest"
)

func TestBroker(t *testing.T) {
	s := sharedServer(t)
	brokertest.Run(t, brokertest.Options{
		New:      func(t *testing.T) broker.Broker { return open(t, s.options("test:"+rand.Text()+":")) },
		RealTime: true, Shared: true, Copies: true,
	})
}
