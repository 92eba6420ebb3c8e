package megaphone

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// isAlone reports whether all writes with the Host of a request come to this handler, whatever their path and body are,
// and nothing else would see or change them: no other handler, no log, no limit to a request or its rate. It is only
// said of what is known, which is sites with this handler first.
func (h *Handler) isAlone(r *http.Request) bool {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Logs != nil || server.Metrics != nil || server.ReadTimeout > 0 || server.ReadMinRate > 0 {
		return false
	}
	return h.isFirst(server.Routes, r) == yes
}

// An answer is what is known of whether a handler is the first.
type answer int

const (
	unknown answer = iota
	no             // the request comes to none of the handlers that could be
	yes
)

// isFirst tells whether this is the first handler that a write comes to.
func (h *Handler) isFirst(routes caddyhttp.RouteList, r *http.Request) answer {
	groups := map[string]bool{}
	for _, route := range routes {
		if groups[route.Group] {
			continue // only the first of a group is taken
		}
		switch matchesAlways(route.MatcherSets, r) {
		case unknown:
			return unknown
		case no:
			continue
		case yes:
		}
		if route.Group != "" {
			groups[route.Group] = true
		}
		for _, handler := range route.Handlers {
			found := unknown
			switch handler := handler.(type) {
			case *caddyhttp.Subroute:
				found = h.isFirst(handler.Routes, r)
			case *Handler:
				if found = no; handler.serves[writeEndpoint] {
					found = yes
				}
			}
			if found != no {
				return found
			}
		}
		if route.Terminal {
			return no
		}
	}
	return no
}

// matchesAlways tells whether a route takes all requests with a Host, or none.
func matchesAlways(sets caddyhttp.MatcherSets, r *http.Request) answer {
	for _, set := range sets {
		for _, matcher := range set {
			hosts, ok := matcher.(*caddyhttp.MatchHost)
			if !ok || strings.Contains(strings.Join(*hosts, ""), "{") {
				return unknown
			}
		}
	}
	if matches, err := sets.AnyMatchWithError(r); err != nil || !matches {
		return no
	}
	return yes
}
