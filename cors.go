package megaphone

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// origins are the origins whose pages may use a site (protocol.md 2.8).
type origins struct {
	all      bool     // one of the patterns is *
	patterns []string // in lower case
}

// parseOrigins returns the origins that match any of the patterns. The patterns have passed checkOrigins.
func parseOrigins(patterns []string) origins {
	var o origins
	for _, pattern := range patterns {
		o.all = o.all || pattern == "*"
		o.patterns = append(o.patterns, strings.ToLower(pattern))
	}
	return o
}

// checkOrigins checks the patterns of a configuration: each must be valid and appear once.
func checkOrigins(patterns []string) error {
	seen := map[string]bool{}
	for _, pattern := range patterns {
		if seen[pattern] {
			return fmt.Errorf("origin %q is named twice: leave one of them out", pattern)
		}
		seen[pattern] = true
		if pattern == "*" {
			continue
		}
		u, err := url.Parse(strings.Replace(pattern, "://*.", "://", 1))
		if err != nil || u.Scheme == "" || u.Host == "" || strings.Contains(u.Host, "*") ||
			u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return fmt.Errorf("%q is not a valid origin: use an origin without a path, "+
				"for example https://www.example.com, https://*.example.com or *", pattern)
		}
	}
	return nil
}

// allow reports whether pages of the origin may use the site.
func (o origins) allow(origin string) bool {
	origin = strings.ToLower(origin)
	for _, pattern := range o.patterns {
		if pattern == "*" || pattern == origin {
			return true
		}
		scheme, domain, ok := strings.Cut(pattern, "://*.")
		if !ok {
			continue
		}
		label, ok := strings.CutSuffix(origin, "."+domain)
		label, hasScheme := strings.CutPrefix(label, scheme+"://")
		if ok && hasScheme && label != "" && !strings.ContainsAny(label, "./:@") {
			return true
		}
	}
	return false
}

// sameOrigin reports whether an origin has the given host, so that its pages use their own site.
func sameOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
}

// handle sets the CORS headers of any reply. It also answers the request if that is a preflight, and reports whether it
// did.
func (o origins) handle(w http.ResponseWriter, r *http.Request, e endpoint) (answered bool) {
	header := w.Header()
	header.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	allowed := origin != "" && o.allow(origin)
	if allowed {
		if o.all {
			origin = "*"
		}
		header.Set("Access-Control-Allow-Origin", origin)
		header.Set("Access-Control-Expose-Headers", "Megaphone-Resume, Retry-After")
	}
	if r.Method != http.MethodOptions || origin == "" || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	if allowed {
		header.Set("Access-Control-Allow-Methods", strings.Join(e.methods(), ", "))
		header.Set("Access-Control-Allow-Headers", "Accept, Content-Type, Idempotency-Key, Last-Event-ID")
		header.Set("Access-Control-Max-Age", "86400")
	}
	w.WriteHeader(http.StatusNoContent)
	return true
}
