package megaphone_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
)

func TestASiteServesOnlyItsEndpoints(t *testing.T) {
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
	// The name write stands for these two as well.
	s.post("/write/write", "").wantError(t, 415, "UNSUPPORTED_MEDIA_TYPE")
	s.post("/write/write-batch", "").wantError(t, 400, "BAD_REQUEST")
	s.post("/create/write", "").wantNext(t)
	s.post("/create/write-batch", "").wantNext(t)
}

// TestPlacesOfTheHandler checks that all handlers of a configuration share the channels, wherever they are.
func TestPlacesOfTheHandler(t *testing.T) {
	s := serve(t, "", "respond 204")
	s.reload("", fmt.Sprintf(`
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
			// The handler at this place and the one that only reads have the same channels.
			for _, polled := range []reply{
				s.do(http.MethodGet, place.prefix+c.readPath()+"?poll=0", place.header, nil),
				s.poll(c),
			} {
				if !strings.Contains(polled.body, `"sid":"a/b"`) {
					t.Errorf("poll: %d %s", polled.StatusCode, polled.body)
				}
			}
			// Requests that no handler serves go to the backend.
			s.tryCreate().wantNext(t)
			s.get("/").wantNext(t)
		})
	}
}
