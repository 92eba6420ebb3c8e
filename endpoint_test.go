package megaphone_test

import (
	"net/http"
	"strings"
	"testing"
)

// nextReply is the reply of the next handler, to which Megaphone passes requests that it does not serve.
const nextReply = "the next handler"

func TestOtherPathsGoToTheNextHandler(t *testing.T) {
	s := serve(t, "", "route {\nmegaphone\nrespond \""+nextReply+"\"\n}")
	c := s.create()
	for _, path := range []string{
		"/", "/index.html", "/create/", "/create/x", "/CREATE", "/creates", "/api/create",
		"/read", c.readPath() + "/", c.readPath() + "/x", "/" + c.readPath(),
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

func TestPathsWithEmptyParts(t *testing.T) {
	s := serve(t, "", "route {\nmegaphone\nrespond \""+nextReply+"\"\n}")
	c := s.create()
	s.get("/read/?poll=0").wantError(t, 404, "NOT_FOUND")
	s.get("/read/%2F?poll=0").wantError(t, 404, "NOT_FOUND")
	s.get(c.readPath()+"%2F?poll=0").wantError(t, 404, "NOT_FOUND")
	s.post("/write/x/s", "1").wantError(t, 404, "NOT_FOUND")
	s.post("/write//s", "1").wantError(t, 404, "NOT_FOUND")
	s.post("/write/x/", "1").wantError(t, 400, "BAD_REQUEST")
	s.post("/write/", "1").wantNext(t) // the path of no endpoint: ingest has no slash, a write has two parts
}

// wantNext checks that a reply comes from the next handler.
func (r reply) wantNext(t *testing.T) {
	t.Helper()
	if r.StatusCode != http.StatusOK || r.body != nextReply {
		t.Errorf("%s: %d %s, want the reply of the next handler", r.Request.URL.Path, r.StatusCode, r.body)
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
