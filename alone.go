package megaphone

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// isAlone reports whether all writes with the Host of a request come to this handler, whatever their path and body are,
// and no other handler, log or limit would see or change them or their replies. It says so only of what it knows:
// sites that have this handler first. Functions that modules have registered for a server's connections are not known;
// they are told what net/http tells them of a connection that is taken over, and given back.
func (h *Handler) isAlone(r *http.Request) bool {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Logs != nil || server.Metrics != nil || server.ReadTimeout > 0 || server.ReadMinRate > 0 {
		return false
	}
	return h.isFirst(server.Routes, r, map[string]bool{}) == yes
}

// An answer is what is known of whether a handler is the first.
type answer int

const (
	unknown answer = iota
	no             // the request comes to none of the handlers that could be
	yes
)

// isFirst tells whether this is the first handler that a write comes to. Of each group of routes, only the first is taken
// that matches.
func (h *Handler) isFirst(routes caddyhttp.RouteList, r *http.Request, groups map[string]bool) answer {
	for _, route := range routes {
		if groups[route.Group] {
			continue
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
				found = h.isFirst(handler.Routes, r, groups)
			case *Handler:
				switch {
				case handler == h:
					found = yes
				case !handler.serves[writeEndpoint]:
					found = no
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
	switch matches, err := sets.AnyMatchWithError(r); {
	case err != nil:
		return unknown
	case matches:
		return yes
	}
	return no
}
