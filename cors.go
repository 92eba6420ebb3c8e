package megaphone

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/idna"
)

// origins are the origins whose pages may use a site, and what their requests may have (protocol.md 2.8).
type origins struct {
	all         bool     // one of the patterns is *
	patterns    []string // as normalizeOrigin returns them
	credentials bool
	headers     string // the value of Access-Control-Allow-Headers
}

// standardHeaders are the request headers that pages may always set. Browsers ask for each of them that is not on Fetch's
// safelist, and * would not include Authorization.
var standardHeaders = []string{
	"Accept", "Authorization", "Cache-Control", "Content-Encoding", "Content-Type", "Idempotency-Key", "Last-Event-ID",
	"Megaphone-Merge",
}

// newOrigins returns the origins of a handler's settings, which have passed checkCORS.
func (h *Handler) newOrigins() origins {
	o := origins{credentials: h.CORSCredentials}
	for _, pattern := range h.CORSOrigins {
		pattern, _ = normalizeOrigin(pattern)
		o.all = o.all || pattern == "*"
		o.patterns = append(o.patterns, pattern)
	}
	headers := slices.Clone(standardHeaders)
	for _, name := range h.CORSHeaders {
		if !slices.ContainsFunc(headers, func(other string) bool { return strings.EqualFold(other, name) }) {
			headers = append(headers, name)
		}
	}
	o.headers = strings.Join(headers, ", ")
	return o
}

// checkCORS checks all settings about other origins together.
func (h *Handler) checkCORS() error {
	if err := checkOrigins(h.CORSOrigins); err != nil {
		return err
	}
	if err := checkHeaders(h.CORSHeaders); err != nil {
		return err
	}
	switch {
	case len(h.CORSOrigins) > 0:
	case h.CORSCredentials:
		return errNoOrigins("cors_credentials")
	case len(h.CORSHeaders) > 0:
		return errNoOrigins("cors_headers")
	}
	for _, pattern := range h.CORSOrigins {
		if h.CORSCredentials && strings.Contains(pattern, "*") {
			return fmt.Errorf("cors_credentials needs exact origins, and %s in cors_origins stands for many: "+
				"name each origin that may send cookies, or leave cors_credentials out", pattern)
		}
	}
	return nil
}

// unmarshalCORS sets up one of the settings about other origins from the Caddyfile.
func (h *Handler) unmarshalCORS(name string, args []string) (repeated bool, err error) {
	switch name {
	case "cors_origins":
		repeated, h.CORSOrigins = h.CORSOrigins != nil, args
		if len(args) == 0 {
			return repeated, errors.New("cors_origins takes one or more origins, for example https://www.example.com: " +
				"leave it out to allow only the site's own")
		}
		return repeated, checkOrigins(args)
	case "cors_headers":
		repeated, h.CORSHeaders = h.CORSHeaders != nil, args
		if len(args) == 0 {
			return repeated, errors.New("cors_headers takes one or more names of headers, for example X-Request-ID: " +
				"leave it out to allow only those that Megaphone uses")
		}
		return repeated, checkHeaders(args)
	}
	return turnOn(&h.CORSCredentials, name, args)
}

// errNoOrigins is the error for a setting that needs cors_origins.
func errNoOrigins(name string) error {
	return fmt.Errorf("%s has no effect without cors_origins: name the origins there, or leave it out", name)
}

// checkOrigins checks the patterns of a configuration: each must be valid and appear once.
func checkOrigins(patterns []string) error {
	seen := map[string]bool{}
	for _, pattern := range patterns {
		normal, err := normalizeOrigin(pattern)
		if err != nil {
			return err
		}
		if seen[normal] {
			return fmt.Errorf("origin %q is named twice: leave one of them out", pattern)
		}
		seen[normal] = true
	}
	return nil
}

// checkHeaders checks the names of request headers: each must be valid and appear once.
func checkHeaders(names []string) error {
	for i, name := range names {
		isSame := func(other string) bool { return strings.EqualFold(other, name) }
		switch {
		case name == "*":
			return errors.New("cors_headers: * does not include Authorization, and nothing where there are cookies: " +
				"name each header")
		case !httpguts.ValidHeaderFieldName(name):
			return fmt.Errorf("cors_headers: %q is not the name of a header: use names such as X-Request-ID", name)
		case slices.ContainsFunc(names[:i], isSame):
			return fmt.Errorf("cors_headers: %s is named twice: leave one of them out", name)
		}
	}
	return nil
}

// defaultPorts are the ports that origins do not write.
var defaultPorts = map[string]string{"http": "80", "https": "443"}

// domainNames turns names into the ASCII form that browsers send, under the rules that browsers have.
var domainNames = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false))

// normalizeOrigin returns an origin, or a pattern for several, in the spelling that browsers send: in lower case, in
// ASCII and without a default port. The error says what is right.
func normalizeOrigin(pattern string) (string, error) {
	if pattern == "*" {
		return pattern, nil
	}
	if !strings.Contains(pattern, "://") {
		if right, err := normalizeOrigin("https://" + pattern); err == nil {
			return "", errSpelling(pattern, right)
		}
	}
	if scheme, _, _ := strings.Cut(strings.ToLower(pattern), "://"); scheme == "ws" || scheme == "wss" {
		if right, err := normalizeOrigin("http" + pattern[len("ws"):]); err == nil { // that of the page
			return "", errSpelling(pattern, right)
		}
	}
	plain, anyPort := strings.CutSuffix(pattern, ":*")
	scheme, host, anyName := strings.Cut(plain, "://*.")
	if anyName {
		plain = scheme + "://" + host
	}
	u, err := url.Parse(plain)
	if err != nil || u.Scheme == "" || u.Opaque != "" || anyName && anyPort {
		return "", errOrigin(pattern)
	}
	name, ok := normalizeHost(u.Hostname())
	if !ok {
		return "", errOrigin(pattern)
	}
	origin := u.Scheme + "://"
	if anyName {
		origin += "*."
	}
	origin += name
	port, ok := normalizePort(u)
	switch {
	case !ok:
		return "", errOrigin(pattern)
	case anyPort:
		origin += ":*"
	case port != "":
		origin += ":" + port
	}
	if u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.User != nil {
		return "", errSpelling(pattern, origin)
	}
	return origin, nil
}

// normalizePort returns the port of an address, or "" if it is the default.
func normalizePort(u *url.URL) (port string, ok bool) {
	if u.Port() == "" {
		return "", true
	}
	n, err := strconv.Atoi(u.Port())
	if err != nil || n < 1 || n > 65535 {
		return "", false
	}
	if port = strconv.Itoa(n); port == defaultPorts[u.Scheme] {
		port = ""
	}
	return port, true
}

// normalizeHost returns the name or the IP address of a host as browsers write it.
func normalizeHost(host string) (normal string, ok bool) {
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
		return "[" + ip.String() + "]", ip.Zone() == ""
	}
	host, err := domainNames.ToASCII(host)
	if err != nil || host == "" {
		return "", false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		if label == "" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "", false
		}
	}
	return host, true
}

func errOrigin(pattern string) error {
	return fmt.Errorf("%q is not a valid origin: use an origin without a path, "+
		"for example https://www.example.com, https://*.example.com, http://localhost:* or *", pattern)
}

func errSpelling(pattern, right string) error {
	return fmt.Errorf("%q is not a valid origin: write %s", pattern, right)
}

// allow reports whether pages of the origin may use the site.
func (o origins) allow(origin string) bool {
	origin = strings.ToLower(origin)
	for _, pattern := range o.patterns {
		if pattern == "*" || pattern == origin {
			return true
		}
		if host, anyPort := strings.CutSuffix(pattern, ":*"); anyPort {
			port, ok := strings.CutPrefix(origin, host)
			if ok && (port == "" || len(port) > 1 && port[0] == ':' && strings.Trim(port[1:], "0123456789") == "") {
				return true
			}
			continue
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

// sameOrigin reports whether an origin has the given host, so that its pages use their own site. A proxy may have added
// the default port to the host.
func sameOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	suffix := ":" + defaultPorts[u.Scheme]
	return strings.EqualFold(strings.TrimSuffix(u.Host, suffix), strings.TrimSuffix(host, suffix))
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
		if o.credentials {
			header.Set("Access-Control-Allow-Credentials", "true")
		}
	}
	if r.Method != http.MethodOptions || origin == "" || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	if allowed {
		header.Set("Access-Control-Allow-Methods", strings.Join(e.methods(), ", "))
		header.Set("Access-Control-Allow-Headers", o.headers)
		header.Set("Access-Control-Max-Age", "86400")
	}
	w.WriteHeader(http.StatusNoContent)
	return true
}
