package broker

import "context"

// A Provider opens a [Broker] for the configuration that it belongs to. Guest modules in Caddy's namespace
// megaphone.brokers implement it.
type Provider interface {
	// BrokerKey identifies the Broker among those that the module can open. Configurations whose keys are equal share one
	// Broker, which the first of them opens, so channels outlive a reload. The key must contain every setting that decides
	// where channels are kept.
	BrokerKey() string

	// OpenBroker opens the Broker. The caller closes it when no configuration uses it any more. Checking a configuration
	// calls it too, so it must not connect to other servers, open files or listen.
	OpenBroker() (Broker, error)
}

// A Starter is a [Broker] that opens files, or connects to other servers. It does so in Start, which is called when the
// configuration takes effect. Checking a configuration does not call it.
type Starter interface {
	// Start makes the Broker ready, and checks that it can keep channels. If it fails, the configuration does not take effect.
	// Calls of other methods before that wait, or fail with [ErrStarting]. A second configuration that shares the Broker calls
	// Start again, which then has no effect.
	Start(ctx context.Context) error
}
