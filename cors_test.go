package megaphone_test

import (
	"net/http"
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
