package megaphone_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestCrossOrigin(t *testing.T) {
	s := serve(t, "megaphone {\nread_duration 10ms\n}", `
		handle_path /some/* {
			route {
				megaphone create read {
					cors_origins https://www.example.com https://*.example.org
				}
				respond 404
			}
		}
		handle_path /any/* {
			megaphone {
				cors_origins *
			}
		}`)
	for _, test := range []struct {
		path, origin, allowed string
	}{
		{"/some/read/main.x?poll=0", "https://www.example.com", "https://www.example.com"},
		{"/some/read/main.x?poll=0", "https://a.example.org", "https://a.example.org"},
		{"/some/read/main.x?poll=0", "https://a.b.example.org", ""},
		{"/some/read/main.x?poll=0", "https://example.org", ""},
		{"/some/read/main.x?poll=0", "http://www.example.com", ""},
		{"/some/read/main.x?poll=0", "https://www.example.com:8443", ""},
		{"/some/read/main.x?poll=0", "https://evil.com/.example.org", ""},
		{"/some/read/main.x?poll=0", "null", ""},
		{"/some/read/main.x?poll=0", "", ""},
		{"/any/read/main.x?poll=0", "https://a.example.net", "*"},
	} {
		header := http.Header{}
		if test.origin != "" {
			header.Set("Origin", test.origin)
		}
		r := s.do(http.MethodGet, test.path, header, nil)
		r.wantError(t, 404, "NOT_FOUND")
		if got := r.Header.Get("Access-Control-Allow-Origin"); got != test.allowed || r.Header.Get("Vary") != "Origin" {
			t.Errorf("%+v: allowed %q, vary %q", test, got, r.Header.Get("Vary"))
		}
		if exposed := r.Header.Get("Access-Control-Expose-Headers"); strings.Contains(exposed, "Megaphone-Resume") != (test.allowed != "") {
			t.Errorf("%+v: exposed %q", test, exposed)
		}
	}
	preflight := func(path, origin string) reply {
		return s.do(http.MethodOptions, path, http.Header{"Origin": {origin}, "Access-Control-Request-Method": {"GET"}}, nil)
	}
	r := preflight("/some/read/main.x", "https://www.example.com")
	if r.StatusCode != http.StatusNoContent || r.Header.Get("Access-Control-Allow-Methods") != "GET, HEAD" ||
		!strings.Contains(r.Header.Get("Access-Control-Allow-Headers"), "Last-Event-ID") {
		t.Errorf("preflight: %d %v", r.StatusCode, r.Header)
	}
	if r := preflight("/some/read/main.x", "https://evil.example"); r.Header.Get("Access-Control-Allow-Methods") != "" {
		t.Errorf("preflight from another origin: %v", r.Header)
	}
	if r := preflight("/some/write/main.x/s", "https://www.example.com"); r.StatusCode != http.StatusNotFound {
		t.Errorf("preflight for an endpoint that the site does not serve: %d", r.StatusCode)
	}
	s.do(http.MethodOptions, "/some/create", http.Header{"Origin": {"https://www.example.com"}}, nil).wantError(t, 405, "METHOD_NOT_ALLOWED")
}

// preflight asks as a browser does whether a page may send a request with some headers.
func (s *server) preflight(path, origin, method string, headers ...string) reply {
	s.Helper()
	header := http.Header{"Origin": {origin}, "Access-Control-Request-Method": {method}}
	if len(headers) > 0 {
		header.Set("Access-Control-Request-Headers", strings.ToLower(strings.Join(headers, ",")))
	}
	return s.do(http.MethodOptions, path, header, nil)
}

// TestOriginsMatchWhatBrowsersSend: whatever the spelling in the configuration is.
func TestOriginsMatchWhatBrowsersSend(t *testing.T) {
	s := serve(t, "", "megaphone {\ncors_origins https://WWW.Example.com:443 HTTP://a.example:80 https://b.example:08443 "+
		"https://B\u00fccher.example https://*.m\u00fcller.example:443 http://localhost:* http://[0:0::1]:8080 capacitor://localhost\n}")
	for origin, allowed := range map[string]bool{
		"https://www.example.com":            true,
		"https://www.example.com:8443":       false,
		"http://www.example.com":             false,
		"http://a.example":                   true,
		"https://a.example":                  false,
		"https://b.example:8443":             true,
		"https://b.example":                  false,
		"https://xn--bcher-kva.example":      true,
		"https://www.xn--mller-kva.example":  true,
		"https://xn--mller-kva.example":      false,
		"https://a.b.xn--mller-kva.example":  false,
		"http://localhost":                   true,
		"http://localhost:5173":              true,
		"https://localhost:5173":             false,
		"http://localhost:":                  false,
		"http://localhost:x":                 false,
		"http://localhost:5173.evil.example": false,
		"http://localhost.evil.example":      false,
		"http://localhost:5173@evil.example": false,
		"http://www.localhost:5173":          false,
		"http://[::1]:8080":                  true,
		"capacitor://localhost":              true,
		"null":                               false,
	} {
		r := s.preflight("/read/main.x", origin, http.MethodGet)
		want := ""
		if allowed {
			want = origin
		}
		if got := r.Header.Get("Access-Control-Allow-Origin"); got != want || r.StatusCode != http.StatusNoContent {
			t.Errorf("%s: %d, allowed %q, want %q", origin, r.StatusCode, got, want)
		}
	}
}

func TestHeadersThatPagesMaySet(t *testing.T) {
	s := serve(t, "", "megaphone {\ncors_origins https://a.example\ncors_headers X-Request-ID authorization traceparent\n}")
	allowed := s.preflight("/write/main.x/s", "https://a.example", http.MethodPost).Header.Get("Access-Control-Allow-Headers")
	for _, name := range []string{
		"Accept", "Authorization", "Cache-Control", "Content-Encoding", "Content-Type", "Idempotency-Key", "Last-Event-ID",
		"Megaphone-Merge",
		"X-Request-ID", "traceparent",
	} {
		if !slices.Contains(strings.Split(allowed, ", "), name) {
			t.Errorf("%s is not among %q", name, allowed)
		}
	}
	if strings.Contains(allowed, "*") {
		t.Errorf("%q: * would not include Authorization", allowed)
	}
}

// TestCookiesOfOtherOrigins: only where the site allows them, and only for exact origins.
func TestCookiesOfOtherOrigins(t *testing.T) {
	s := serve(t, "", `
		handle_path /with/* {
			megaphone {
				cors_origins https://a.example https://b.example
				cors_credentials
			}
		}
		megaphone {
			cors_origins https://a.example
		}`)
	for _, test := range []struct{ prefix, origin, credentials string }{
		{"/with", "https://a.example", "true"},
		{"/with", "https://b.example", "true"},
		{"/with", "https://evil.example", ""},
		{"", "https://a.example", ""},
	} {
		for _, r := range []reply{
			s.preflight(test.prefix+"/read/main.x", test.origin, http.MethodGet, "Authorization"),
			s.do(http.MethodGet, test.prefix+"/read/main.x?poll=0", http.Header{"Origin": {test.origin}}, nil),
		} {
			if got := r.Header.Get("Access-Control-Allow-Credentials"); got != test.credentials {
				t.Errorf("%+v: credentials %q", test, got)
			}
			if got := r.Header.Get("Access-Control-Allow-Origin"); got == "*" || test.credentials != "" && got != test.origin {
				t.Errorf("%+v: allowed %q", test, got)
			}
		}
	}
}

// TestTheOwnOriginOfAWebSocket: a proxy may pass on the Host with its default port.
func TestTheOwnOriginOfAWebSocket(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	for _, test := range []struct {
		origin, host string
		status       int
	}{
		{"https://a.example", "a.example", http.StatusSwitchingProtocols},
		{"https://a.example", "A.example:443", http.StatusSwitchingProtocols},
		{"https://a.example:8443", "a.example:8443", http.StatusSwitchingProtocols},
		{"https://a.example", "a.example:80", http.StatusForbidden},
		{"https://a.example:8443", "a.example", http.StatusForbidden},
		{"capacitor://localhost", "localhost:80", http.StatusForbidden},
	} {
		r := s.open(http.MethodGet, c.readPath()+"?after=", http.Header{
			"Host": {test.host}, "Origin": {test.origin}, "Connection": {"Upgrade"}, "Upgrade": {"websocket"},
			"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
		}, nil)
		if r.Body.Close(); r.StatusCode != test.status {
			t.Errorf("%s at %s: %d, want %d", test.origin, test.host, r.StatusCode, test.status)
		}
	}
}
