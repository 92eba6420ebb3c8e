package direct

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
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

// minWrites is how many writes alike must have come in a row before their connection is taken over. Changing hands costs
// as much as some direct writes save, so for a producer that does other things in between it is the double each time, up
// to maxWrites.
const minWrites, maxWrites = 8, 1024

// prefix begins the path of a direct write.
const prefix = "/write/"

// Options are what direct writes need to know of their site. They must not change.
type Options struct {
	Broker broker.Broker
	Limits broker.Limits
	// MaxMessageSize is the size of the largest body, in bytes.
	MaxMessageSize int64
	// WriteTimeout is how long a client may take no replies.
	WriteTimeout time.Duration
	Logger       *zap.Logger
	// Conns has the hijacked connections of the configuration, and Count counts them.
	Conns *Conns
	Count prometheus.Gauge
	// Over reports whether the configuration was replaced, or the process exits.
	Over func() bool
	// First tells whether a handler of the site is the one that direct writes stand in for.
	First func(handler caddyhttp.MiddlewareHandler) Answer
}

// Hijack is called for a write that was accepted. It hijacks the connection if it is time to, and reports whether it has.
// Then it sends the reply, too.
func Hijack(w http.ResponseWriter, r *http.Request, o *Options) bool {
	client := conn.ClientOf(r)
	if client == nil || r.ProtoMajor != 1 || client.Stays {
		return false
	}
	if !pattern.Same(client.Header, r.Header) {
		client.Writes, client.Header = 0, r.Header
	}
	patience := cmp.Or(client.Patience, minWrites)
	if client.Writes++; client.Writes < patience {
		return false
	}
	client.Writes = 0
	if r.TLS != nil || !conn.IsBare(w, r) || !isAlone(r, o) {
		client.Stays, client.Header = true, nil
		return false
	}
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	bare := handover.Socket(client.Conn)
	if server == nil || bare == nil || !mayRepeat(r) || o.Over() {
		return false
	}
	reply, ok := newReply(w.Header())
	if !ok {
		return false
	}
	// At the end of the body Caddy takes back the deadline that it has set for it.
	if n, err := r.Body.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return false
	}
	_, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	early, _ := buffered.Peek(buffered.Reader.Buffered()) // they are there
	c := &producerConn{
		options: o, origin: client.Conn, socket: bare, server: server, patience: patience,
		first:   &http.Request{Method: r.Method, Host: r.Host, Proto: r.Proto, Header: r.Header},
		timeout: conn.WriteTimeout(r, o.WriteTimeout), reply: reply,
		buffer: slices.Clone(early), end: len(early),
		idle: cmp.Or(server.IdleTimeout, server.ReadTimeout), last: clock.Now(),
	}
	c.writer = socket.NewWriter(bare)
	c.out = c.reply.append(c.out, c.last, false)
	go c.serve()
	return true
}

// mayRepeat reports whether a request is of a kind that can be served directly.
func mayRepeat(r *http.Request) bool {
	path, ok := strings.CutPrefix(r.RequestURI, prefix)
	return ok && pattern.IsPath(path) && r.ProtoAtLeast(1, 1) && !r.Close &&
		0 <= r.ContentLength && r.ContentLength <= pattern.MaxBody &&
		r.Header.Get("Expect") == "" && r.Header.Get("Upgrade") == ""
}

// isAlone reports whether all writes with the Host of a request come to this handler, whatever their path and body are,
// and no other handler, log or limit would see or change them or their replies. It says so only of what it knows:
// sites that have this handler first. Functions that modules have registered for a server's connections are not known;
// they are told what net/http tells them of a connection that is taken over, and given back.
func isAlone(r *http.Request, o *Options) bool {
	server := conn.ServerOf(r)
	switch {
	case server == nil, server.Metrics != nil, server.Logs != nil && server.Logs.Trace:
		return false // an access log of this Host shows around the response: see isBare
	case server.ReadTimeout > 0, server.ReadMinRate > 0, isShort(server.ReadHeaderTimeout), isShort(server.ReadIdleTimeout):
		return false
	case len(server.ExpectedUnderscoreHeaders) > 0, len(server.ExpectedDotHeaders) > 0: // can cost a request its key
		return false
	}
	return o.isFirst(server.Routes, r, map[string]bool{}) == Yes
}

// isShort reports whether a limit is shorter than what the rest of a direct write has to arrive in.
func isShort(limit caddy.Duration) bool { return 0 < limit && time.Duration(limit) < maxArrival }

// An Answer is what is known of whether a handler is the first.
type Answer int

const (
	Unknown Answer = iota
	No             // the request comes to none of the handlers that could be
	Yes
)

// isFirst tells whether this is the first handler that a write comes to. Of each group of routes, only the first is taken
// that matches.
func (o *Options) isFirst(routes caddyhttp.RouteList, r *http.Request, groups map[string]bool) Answer {
	for _, route := range routes {
		if groups[route.Group] {
			continue
		}
		switch matchesAlways(route.MatcherSets, r) {
		case Unknown:
			return Unknown
		case No:
			continue
		case Yes:
		}
		if route.Group != "" {
			groups[route.Group] = true
		}
		for _, handler := range route.Handlers {
			var found Answer
			if sub, ok := handler.(*caddyhttp.Subroute); ok {
				found = o.isFirst(sub.Routes, r, groups)
			} else {
				found = o.First(handler)
			}
			if found != No {
				return found
			}
		}
		if route.Terminal {
			return No
		}
	}
	return No
}

// matchesAlways tells whether a route takes all requests with a Host, or none.
func matchesAlways(sets caddyhttp.MatcherSets, r *http.Request) Answer {
	for _, set := range sets {
		for _, matcher := range set {
			hosts, ok := matcher.(*caddyhttp.MatchHost)
			if !ok || strings.Contains(strings.Join(*hosts, ""), "{") {
				return Unknown
			}
		}
	}
	switch matches, err := sets.AnyMatchWithError(r); {
	case err != nil:
		return Unknown
	case matches:
		return Yes
	}
	return No
}
