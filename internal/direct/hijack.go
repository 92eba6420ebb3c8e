// Package direct serves writes without net/http: direct writes.
//
// A backend often keeps a connection and writes one message after the other. Most of what such a write costs is then what
// net/http and Caddy do for each request (docs/performance.md). So after some writes in a row that differ only in their
// path, body, length and idempotency key, [Site.Hijack] hijacks the connection from net/http. From then on this package serves
// the connection.
//
// A direct write is a request that
//   - differs only in these parts from a write that has gone through all of Caddy,
//   - has arrived as a whole within a second,
//   - and has a message that the channel accepts at once.
//
// Everything else goes back to net/http together with the connection, unserved: other requests, slow requests, errors,
// full channels. So there is one place only that refuses and waits.
//
// Hijack leaves a connection to net/http if anybody would notice. It must be HTTP/1.1 without TLS, no other handler may
// come before the one that direct writes stand in for, and no access log, metrics or limit of Caddy's may concern the
// writes.
//
// The package knows Caddy's servers and routes. It knows nothing of Megaphone's handlers and settings except [Options].
package direct

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/clock"
	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/direct/pattern"
	"github.com/caddy-megaphone/megaphone/internal/handover"
	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// minWrites is how many like writes must have come in a row before their connection is hijacked. To hijack a connection
// costs as much as some direct writes save. So if a producer does other things in between, the number doubles each time,
// up to maxWrites.
const minWrites, maxWrites = 8, 1024

// prefix begins the path of a direct write.
const prefix = "/write/"

// Options are what direct writes need to know of their site. They must not change after they were given to [NewSite]. All
// fields must be set.
type Options struct {
	// Broker gets the messages, within Limits.
	Broker broker.Broker
	Limits broker.Limits
	// MaxMessageSize is the size of the largest body, in bytes. Larger ones go back to net/http.
	MaxMessageSize int64
	// WriteTimeout is how long a client may take nothing of the replies before its connection is closed. If Caddy's
	// write_idle is shorter, that counts.
	WriteTimeout time.Duration
	// Logger gets panics.
	Logger *zap.Logger
	// Conns holds the hijacked connections of the configuration. Count counts them.
	Conns *Conns
	Count prometheus.Gauge
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
}

// NewSite returns a site with these options.
func NewSite(o Options) *Site { return &Site{Options: o} }

// Hijack hijacks the connection of a write if it is time to, and reports whether it did. The handler of r calls it when the
// write was accepted and nothing of the reply was sent. If Hijack returns true, it sends the reply itself, and the handler
// must return without using w or r again. If it returns false, the handler must send the reply.
func (s *Site) Hijack(w http.ResponseWriter, r *http.Request) bool {
	client := conn.ClientOf(r)
	if client == nil || r.ProtoMajor != 1 || client.NeverHijack {
		return false
	}
	if !pattern.Same(client.Header, r.Header) {
		client.Writes, client.Header = 0, r.Header
	}
	hijackAfter := cmp.Or(client.HijackAfter, minWrites)
	if client.Writes++; client.Writes < hijackAfter {
		return false
	}
	client.Writes = 0
	if r.TLS != nil || !conn.IsBare(w, r) || !s.isAlone(r) {
		client.NeverHijack, client.Header = true, nil
		return false
	}
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	bare := handover.Socket(client.Conn)
	if server == nil || bare == nil || !mayRepeat(r) || s.Over() {
		return false
	}
	reply, ok := newReply(w.Header())
	if !ok {
		return false
	}
	// Caddy may have set a deadline for the body. It removes the deadline when the end of the body is read.
	if n, err := r.Body.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return false
	}
	_, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	early, _ := buffered.Peek(buffered.Reader.Buffered()) // cannot fail: the bytes are in the buffer
	c := &producerConn{
		site: s, origin: client.Conn, socket: bare, server: server, hijackedAfter: hijackAfter,
		first:   &http.Request{Method: r.Method, Host: r.Host, Proto: r.Proto, Header: r.Header},
		timeout: conn.WriteTimeout(r, s.WriteTimeout), reply: reply,
		buffer: slices.Clone(early), end: len(early),
		idle: cmp.Or(server.IdleTimeout, server.ReadTimeout), last: clock.Now(),
	}
	c.writer = socket.NewWriter(bare)
	c.out = c.reply.append(c.out, c.last, false)
	go c.serve()
	return true
}

// mayRepeat reports whether requests like r can be served directly.
func mayRepeat(r *http.Request) bool {
	path, ok := strings.CutPrefix(r.RequestURI, prefix)
	return ok && pattern.IsPath(path) && r.ProtoAtLeast(1, 1) && !r.Close &&
		0 <= r.ContentLength && r.ContentLength <= pattern.MaxBody &&
		r.Header.Get("Expect") == "" && r.Header.Get("Upgrade") == ""
}
