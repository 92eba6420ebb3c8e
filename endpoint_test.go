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
		"/", "/index.html", "/create/x", "/CREATE", "/creates", "/api/create",
		"/read", "/read/about/us", "/read/app.js/map", "/read/guide.v1/", "//read/about", "//", "/READ/" + c.ConsumerAddress + "/x",
		"/write/page", "/write/app.4f3a2b1c9d8e7f6a5b4c3d.js", "/write/posts.d/2026/11", "/write/" + c.secret() + "/a/b", "//write/x/s",
		"/write-batches", "/channelsexists", "/channelsExists/x", "/channel/" + c.ProducerAddress + "/x", "/health/", "/exists/",
		"/read%2F" + c.ConsumerAddress, "/write%2Fx%2Fs",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if r := s.do(method, path, jsonHeader, strings.NewReader("1")); r.StatusCode != http.StatusOK || r.body != nextReply {
				t.Errorf("%s %s: %d %s", method, path, r.StatusCode, r.body)
			}
		}
	}
}

// secret returns the secret of the channel's producer, without the agent.
func (c channel) secret() string {
	_, secret, _ := strings.Cut(c.ProducerAddress, ".")
	return secret
}

// TestEscapedLettersInAName: /%63reate is /create, for Caddy's matchers too. An escaped slash is none that divides a path.
func TestEscapedLettersInAName(t *testing.T) {
	s := serve(t, "", "route {\nmegaphone create write read topics\nrespond \""+nextReply+"\"\n}")
	c := s.create()
	for path, want := range map[string]int{
		"/%63reate": 200, "/writ%65/" + c.ProducerAddress + "/s": 201, "/write%2Dbatch": 400, "/topi%63/t/close": 200,
		"/%77rite/" + c.ProducerAddress: 404, "/creat%65/": 404, "/topi%63/t/x": 404,
	} {
		if r := s.do(http.MethodPost, path, jsonHeader, strings.NewReader("{}")); r.StatusCode != want || r.body == nextReply {
			t.Errorf("POST %s: %d %s, want %d", path, r.StatusCode, r.body, want)
		}
	}
	if got := s.get("/rea%64/" + c.ConsumerAddress + "?poll=0").body; !strings.Contains(got, `"body":{}`) {
		t.Errorf("the read got %q", got)
	}
	s.get("/create%2F").wantNext(t)
}

// TestWrongPathsAreRefused: a request that is meant for an endpoint, but has a wrong path, does not come to the next
// handler. Its 200 would look like success.
func TestWrongPathsAreRefused(t *testing.T) {
	site := "route {\nmegaphone create write read exists manage\nrespond \"" + nextReply + "\"\n}"
	s := serve(t, "", site+"\nhandle_path /below/* {\n"+site+"\n}")
	c := s.create()
	write, manage := "/write/"+c.ProducerAddress, "/channel/"+c.ConsumerAddress
	for _, test := range []struct{ methods, path, want string }{
		{"GET POST PUT OPTIONS", write, "the stream id is missing"},
		{"GET POST", write + "/a/b", "a stream id is one path segment: write / as %2F"},
		{"POST", write + "/a/", "a stream id is one path segment: write / as %2F"},
		{"POST", write + "//a", "a stream id is one path segment: write / as %2F"},
		{"POST", write + "/a%2Fb/c", "a stream id is one path segment: write / as %2F"},
		{"POST", write + "%2Fa", "write the / after the address as it is, not as %2F"},
		{"POST", "/write/other_agent-1.0123456789abcdef0123456789abcdef0/a/b", "one path segment"},
		{"GET POST", c.readPath() + "/?poll=0", "nothing follows the address"},
		{"GET HEAD", c.readPath() + "/x?poll=0", "nothing follows the address"},
		{"GET DELETE", manage + "/", "nothing follows the address"},
		{"DELETE", manage + "/x", "nothing follows the address"},
		{"POST", "/" + write + "/a", "write one slash only before write and after it"},
		{"POST", "/write//" + c.ProducerAddress + "/a", "one slash only before write and after it"},
		{"GET", "/" + c.readPath() + "?poll=0", "one slash only before read and after it"},
		{"POST", "//write-batch", "the path is /write-batch"},
		{"POST", "/create/", "the path is /create"},
		{"POST", "/write/", "the path is /write"},
		{"POST", "/write-batch/", "the path is /write-batch"},
		{"POST", "/channelsExists/?x", "the path is /channelsExists"},
	} {
		for method := range strings.FieldsSeq(test.methods) {
			for _, prefix := range []string{"", "/below"} {
				if prefix != "" && strings.Contains(test.path, "//") {
					continue // handle_path makes one slash of it
				}
				r := s.do(method, prefix+test.path, jsonHeader, strings.NewReader("1"))
				if method == http.MethodHead {
					if r.StatusCode != http.StatusNotFound {
						t.Errorf("HEAD %s: %d", test.path, r.StatusCode)
					}
					continue
				}
				r.wantError(t, 404, "NOT_FOUND")
				if !strings.Contains(r.body, test.want) {
					t.Errorf("%s %s: %s, want %q", method, test.path, r.body, test.want)
				}
			}
		}
	}
	for _, path := range []string{"/create/", "//create", "/write/", "/write-batch/", "/channelsExists/"} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodOptions} {
			if r := s.do(method, path, nil, nil); r.StatusCode != http.StatusOK || method != http.MethodHead && r.body != nextReply {
				t.Errorf("%s %s: %d %s, want the reply of the next handler", method, path, r.StatusCode, r.body)
			}
		}
	}
	if metrics := s.metrics(); metrics[`caddy_megaphone_requests_refused_total{code="NOT_FOUND",endpoint="write-batch"}`] < 1 {
		t.Error("a refusal was not counted")
	}
}

// TestARewriteThatDecodesAStreamIDIsNoticed: with the pattern of the docs, the stream id stays whole.
func TestARewriteThatDecodesAStreamIDIsNoticed(t *testing.T) {
	s := serve(t, "", `
		@captured path_regexp ^/captured/(.*)
		rewrite @captured /{re.1}
		handle_path /kept/* {
			megaphone
		}
		megaphone`)
	c := s.create()
	s.post("/kept/write/"+c.ProducerAddress+"/a%2Fb", "1").wantCreated(t)
	r := s.post("/captured/write/"+c.ProducerAddress+"/a%2Fb", "1")
	r.wantError(t, 404, "NOT_FOUND")
	if !strings.Contains(r.body, "write / as %2F") {
		t.Error(r.body)
	}
}

// TestWrongPathsOfOtherEndpointsGoToTheNextHandler: a site takes nothing in place of endpoints that it does not serve.
func TestWrongPathsOfOtherEndpointsGoToTheNextHandler(t *testing.T) {
	s := serve(t, "", "route {\nmegaphone read {\ncors_origins *\n}\nhandle_path /all/* {\nmegaphone\n}\nrespond \""+nextReply+"\"\n}")
	c := s.createAt("/all")
	s.post("/write/"+c.ProducerAddress+"/a/b", "1").wantNext(t)
	s.post("/write/"+c.ProducerAddress, "1").wantNext(t)
	s.post("/create/", "1").wantNext(t)
	s.post("/write-batch/", "1").wantNext(t)
	s.get("/channel/" + c.ConsumerAddress + "/").wantNext(t)
	s.get(c.readPath()+"/?poll=0").wantError(t, 404, "NOT_FOUND")
}

// TestWrongPathsOfOtherOrigins: a page of an allowed origin can read what is wrong with its path.
func TestWrongPathsOfOtherOrigins(t *testing.T) {
	s := serve(t, "", "route {\nmegaphone {\ncors_origins https://a.example\n}\nrespond \""+nextReply+"\"\n}")
	c := s.create()
	preflight := func(path, method string) reply {
		return s.do(http.MethodOptions, path, http.Header{"Origin": {"https://a.example"}, "Access-Control-Request-Method": {method}}, nil)
	}
	for _, path := range []string{"/write/" + c.ProducerAddress + "/a/b", "/create/"} {
		r := preflight(path, http.MethodPost)
		if r.StatusCode != http.StatusNoContent || r.Header.Get("Access-Control-Allow-Methods") != "POST" {
			t.Errorf("preflight of %s: %d %v", path, r.StatusCode, r.Header)
		}
		r = s.do(http.MethodPost, path, http.Header{"Origin": {"https://a.example"}}, nil)
		r.wantError(t, 404, "NOT_FOUND")
		if r.Header.Get("Access-Control-Allow-Origin") != "https://a.example" {
			t.Errorf("%s: %v", path, r.Header)
		}
	}
	preflight("/create/", http.MethodPut).wantNext(t)
	preflight("/write/page", http.MethodPost).wantNext(t)
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
	s.post("/write/", "1").wantError(t, 404, "NOT_FOUND") // ingest has no slash, a write has two parts
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
