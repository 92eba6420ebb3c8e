package megaphone_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
)

// nextReply is what answers in these tests when the handler passes a request on.
const nextReply = "the next handler"

func TestPathsThatAreNoEndpointsGoToTheNextHandler(t *testing.T) {
	s := serve(t, "", "route {\nmegaphone\nrespond \""+nextReply+"\"\n}")
	c := s.create()
	for _, path := range []string{
		"/", "/index.html", "/create/", "/create/x", "/CREATE", "/creates", "/api/create",
		"/read", "/read/" + c.ConsumerAddress + "/", "/read/" + c.ConsumerAddress + "/x", "//read/" + c.ConsumerAddress,
		"/write/" + c.ProducerAddress, "/write/" + c.ProducerAddress + "/a/b", "/write/" + c.ProducerAddress + "/a/", "//write/x/s",
		"/write-batch/", "/write-batches", "/channelsExists/", "/channelsexists", "/channelsExists/x",
		"/read%2F" + c.ConsumerAddress, "/write%2Fx%2Fs",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if r := s.do(method, path, jsonHeader, strings.NewReader("1")); r.StatusCode != http.StatusOK || r.body != nextReply {
				t.Errorf("%s %s: %d %s", method, path, r.StatusCode, r.body)
			}
		}
	}
}

func TestPathsThatAreAnEndpointsWithNothingInThem(t *testing.T) {
	s := serve(t, "", "route {\nmegaphone\nrespond \""+nextReply+"\"\n}")
	c := s.create()
	s.get("/read/?poll=0").wantError(t, 404, "NOT_FOUND")
	s.get("/read/%2F?poll=0").wantError(t, 404, "NOT_FOUND")
	s.get("/read/"+c.ConsumerAddress+"%2F?poll=0").wantError(t, 404, "NOT_FOUND")
	s.post("/write/x/s", "1").wantError(t, 404, "NOT_FOUND")
	s.post("/write//s", "1").wantError(t, 404, "NOT_FOUND")
	s.post("/write/x/", "1").wantError(t, 400, "BAD_REQUEST")
	s.post("/write/", "1").wantNext(t) // neither the ingest's path nor a write's
}

func (r reply) wantNext(t *testing.T) {
	t.Helper()
	if r.StatusCode != http.StatusOK || r.body != nextReply {
		t.Errorf("%s: %d %s, want the next handler", r.Request.URL.Path, r.StatusCode, r.body)
	}
}

func TestOtherMethodsAreRefused(t *testing.T) {
	s := serve(t, "", "megaphone")
	for path, allow := range map[string]string{
		"/create": "POST", "/write": "POST", "/write/main.x/s": "POST", "/write-batch": "POST", "/channelsExists": "POST", "/read/main.x": "GET, HEAD",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, "BREW"} {
			if strings.Contains(allow, method) {
				continue
			}
			r := s.do(method, path, nil, nil)
			r.wantError(t, 405, "METHOD_NOT_ALLOWED")
			if r.Header.Get("Allow") != allow {
				t.Errorf("%s %s: Allow: %q, want %q", method, path, r.Header.Get("Allow"), allow)
			}
		}
	}
}

func TestASiteServesItsEndpointsOnly(t *testing.T) {
	requests := map[string]func(*server, string) reply{
		"create": func(s *server, site string) reply { return s.do(http.MethodPost, site+"/create", nil, nil) },
		"write":  func(s *server, site string) reply { return s.post(site+"/write/main.x/s", "1") },
		"read":   func(s *server, site string) reply { return s.get(site + "/read/main.x?poll=0") },
		"exists": func(s *server, site string) reply { return s.post(site+"/channelsExists", `{"channels":[]}`) },
	}
	var sites strings.Builder
	for name := range requests {
		fmt.Fprintf(&sites, "handle_path /%[1]s/* {\nroute {\nmegaphone %[1]s\nrespond %[2]q\n}\n}\n", name, nextReply)
	}
	s := serve(t, "", sites.String())
	for site := range requests {
		for endpoint, request := range requests {
			if r := request(s, "/"+site); (r.body == nextReply) == (site == endpoint) {
				t.Errorf("%s at a site for %s: %d %s", endpoint, site, r.StatusCode, r.body)
			}
		}
	}
	for _, path := range []string{"/write", "/write-batch"} { // are part of write
		s.post("/write"+path, "").wantError(t, map[string]int{"/write": 415, "/write-batch": 400}[path], map[string]string{"/write": "UNSUPPORTED_MEDIA_TYPE", "/write-batch": "BAD_REQUEST"}[path])
		s.post("/create"+path, "").wantNext(t)
	}
}

// All handlers of a configuration share the channels, wherever they stand.
func TestPlacesOfTheHandler(t *testing.T) {
	s := serve(t, "", "respond 204")
	err := s.load("", fmt.Sprintf(`
		handle_path /stripped/* {
			megaphone
		}
		route /routed/* {
			uri strip_prefix /routed
			megaphone
		}
		@named header X-Site named
		megaphone @named
		megaphone read
		reverse_proxy unix/%[1]s {
			header_up Host backend.localhost
		}
	}
	http://other.localhost {
		bind unix/%[1]s
		encode gzip
		megaphone
	}
	http://backend.localhost {
		bind unix/%[1]s
		respond %[2]q`, s.socket, nextReply))
	if err != nil {
		t.Fatal(err)
	}
	for name, place := range map[string]struct {
		prefix string
		header http.Header
	}{
		"behind handle_path": {"/stripped", nil},
		"in a route":         {"/routed", nil},
		"with a matcher":     {"", http.Header{"X-Site": {"named"}}},
		"at another site":    {"", http.Header{"Host": {"other.localhost"}}},
	} {
		t.Run(name, func(t *testing.T) {
			var c channel
			r := s.do(http.MethodPost, place.prefix+"/create", place.header, nil)
			if err := json.Unmarshal([]byte(r.body), &c); err != nil || c.ConsumerAddress == "" {
				t.Fatalf("create: %d %s", r.StatusCode, r.body)
			}
			header := http.Header{"Content-Type": {"application/json"}}
			maps.Copy(header, place.header)
			r = s.do(http.MethodPost, place.prefix+"/write/"+c.ProducerAddress+"/a%2Fb", header, strings.NewReader("1"))
			if r.StatusCode != http.StatusCreated {
				t.Fatalf("write: %d %s", r.StatusCode, r.body)
			}
			// Each place, and the one that only reads, has the same channels.
			for _, reader := range []reply{
				s.do(http.MethodGet, place.prefix+"/read/"+c.ConsumerAddress+"?poll=0", place.header, nil),
				s.get("/read/" + c.ConsumerAddress + "?poll=0"),
			} {
				if !strings.Contains(reader.body, `"sid":"a/b"`) {
					t.Errorf("read: %d %s", reader.StatusCode, reader.body)
				}
			}
			// What is none of the handler's business is the backend's.
			s.do(http.MethodPost, "/create", nil, nil).wantNext(t)
			s.get("/").wantNext(t)
		})
	}
}
