package workload

import (
	"net/http"
	"testing"
)

// A Transport sends the requests of many clients over connections that they share, except requests with Close: each gets a
// connection of its own.
//
// A request that its client may break off needs that. If the reply has no body, net/http takes the connection for idle a moment
// before it hands over the reply. If a request on the connection is broken off in that moment, the one before it or after it fails
// with the same error.
type Transport struct {
	shared, own http.Transport
}

// NewTransport returns a transport that closes its connections when the test ends.
func NewTransport(tb testing.TB) *Transport {
	tb.Helper()
	t := &Transport{shared: http.Transport{MaxIdleConnsPerHost: 100}, own: http.Transport{DisableKeepAlives: true}}
	tb.Cleanup(t.shared.CloseIdleConnections)
	return t
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Close {
		return t.own.RoundTrip(r)
	}
	return t.shared.RoundTrip(r)
}
