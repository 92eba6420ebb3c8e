package direct

import (
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/obstacle"
)

// An Answer is the answer to a question about handlers or routes.
type Answer int

// The answers. Unknown is the zero value.
const (
	Unknown Answer = iota
	No
	Yes
)

// The reasons why writes are not direct, besides those of package obstacle.
const (
	observed      obstacle.Reason = "Caddy's global option metrics, or the server's trace, observes every request"
	readTimeout   obstacle.Reason = "servers { timeouts } limits how long a request takes: see the option read_body, and read_header and read_body_idle below a second"
	filtered      obstacle.Reason = "expected_underscore_headers or expected_dot_headers may remove headers"
	notFirst      obstacle.Reason = "another handler comes before megaphone, or a matcher other than host decides what reaches it"
	tooOdd        obstacle.Reason = "the requests have no Content-Length, a Content-Encoding, more than 64 KiB, escapes in the path, HTTP/1.0, Expect, Upgrade or Connection: close"
	headersDiffer obstacle.Reason = "the headers change from write to write"
)

// obstacle returns why not all writes with the Host of r come to this handler first, whatever their path and body are, or
// which log or limit would see or change them or their replies. It returns no reason only if it is sure, which it can be
// only for sites that have this handler first.
//
// It does not know the functions that modules have registered for the connections of a server. These functions learn what
// net/http reports of a connection that is hijacked, and of one that is given back.
func (s *Site) obstacle(r *http.Request) obstacle.Reason {
	server := conn.ServerOf(r)
	switch {
	case server == nil:
		return obstacle.Wrapped
	case server.Metrics != nil, server.Logs != nil && server.Logs.Trace:
		return observed // obstacle.Of has found out whether this Host has an access log: one wraps the response
	case server.ReadTimeout > 0, server.ReadMinRate > 0, isShort(server.ReadHeaderTimeout), isShort(server.ReadIdleTimeout):
		return readTimeout
	case len(server.ExpectedUnderscoreHeaders) > 0, len(server.ExpectedDotHeaders) > 0:
		return filtered // Caddy may remove the Idempotency-Key of a request
	case s.isFirst(server.Routes, r, map[string]bool{}) != Yes:
		return notFirst
	}
	return ""
}

// isShort reports whether a limit is set and shorter than the time in which the rest of a direct write must arrive.
func isShort(limit caddy.Duration) bool { return 0 < limit && time.Duration(limit) < maxArrival }

// isFirst reports whether this handler is the first that a write with the Host of r comes to. Groups are the groups of
// which a route was taken: Caddy takes only the first route of a group that matches.
func (s *Site) isFirst(routes caddyhttp.RouteList, r *http.Request, groups map[string]bool) Answer {
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
				found = s.isFirst(sub.Routes, r, groups)
			} else {
				found = s.First(handler)
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

// matchesAlways reports whether a route takes all requests with the Host of r. No means that it takes none of them.
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
