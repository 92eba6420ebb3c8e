package direct

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/obstacle"
)

// Options are what direct writes need to know of their site. They must not change after they were given to [NewSite]. All
// fields must be set.
type Options struct {
	// Broker gets the messages, within Limits.
	Broker broker.Broker
	Limits broker.Limits
	// Refuse replies to a write that the Broker has refused with err, as the handler does for writes that come through
	// net/http. The context of r has ended if the client is gone. There is no body to read.
	Refuse func(w http.ResponseWriter, r *http.Request, producer string, err error)
	// MaxMessageSize is the size of the largest body, in bytes. Larger ones go back to net/http.
	MaxMessageSize int64
	// WriteTimeout is how long a client may take nothing of the replies before its connection is closed. If Caddy's
	// write_idle is shorter, that counts.
	WriteTimeout time.Duration
	// Logger gets panics and mismatches of samples. It is told once that writes are direct, or what is in the way.
	Logger *zap.Logger
	// Conns holds the hijacked connections of the configuration. Count counts them.
	Conns *Conns
	Count prometheus.Gauge
	// Waits counts writes that wait for the Broker, and replies to them that are not sent. The exit of the process may wait
	// until it is zero.
	Waits *atomic.Int32
	// SampleEvery is how many direct writes there are for each sample: a write that goes through net/http and all handlers,
	// to be compared with what package direct makes of it. Samples and Mismatches count samples, and those that differ.
	SampleEvery         int
	Samples, Mismatches prometheus.Counter
	// Over reports whether the configuration was replaced, or the process exits. Right after Over has begun to return true,
	// [Conns.End] must be called. Over is called on any goroutine.
	Over func() bool
	// First reports whether a handler of a site is the one that direct writes stand in for. No means that the handler
	// leaves every write to the next handler, as it is. Unknown means anything else.
	First func(handler caddyhttp.MiddlewareHandler) Answer
}

// A Site is a site that serves writes directly. Any number of goroutines may use it.
type Site struct {
	Options

	log *obstacle.Log
	// distrusted says that a sample has differed. Then the site leaves all writes to net/http.
	distrusted atomic.Bool
}

// NewSite returns a site with these options.
func NewSite(o Options) *Site { return &Site{Options: o, log: obstacle.NewLog(o.Logger, "writes")} }
