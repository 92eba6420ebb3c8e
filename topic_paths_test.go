package megaphone_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestWrongPathsOfTopicsAreRefused: all below the two names is meant for them, and the reply says what is wrong.
func TestWrongPathsOfTopicsAreRefused(t *testing.T) {
	site := "route {\n" + topicSite + "\nrespond \"" + nextReply + "\"\n}"
	s := serve(t, "megaphone {\n"+topicBroker+"\n}", site)
	for _, test := range []struct{ method, path, want string }{
		{"GET", "/topic/a/", "a slash too many at the end"},
		{"PUT", "/topic/a/b", "a producer address or close follows the topic"},
		{"PUT", "/topic/a/b/main.x", "one path segment: write / as %2F"},
		{"PUT", "//topic/a", "one slash only before topic"},
		{"GET", "/topic//close", "the name of the topic is missing"},
		{"PUT", "/topic/", "the name of the topic is missing"},
		{"PUT", "/topic", "the name of the topic is missing"},
		{"POST", "/publish", "the path is /publish/{topic}/{streamId}"},
		{"POST", "/publish/", "the name of the topic is missing"},
		{"POST", "/publish/a", "the stream id is missing"},
		{"GET", "/publish/a/b/c", "one path segment: write / as %2F"},
	} {
		r := s.do(test.method, test.path, jsonHeader, strings.NewReader("1"))
		r.wantError(t, 404, "NOT_FOUND")
		if !strings.Contains(r.body, test.want) {
			t.Errorf("%s %s: %s, want %q", test.method, test.path, r.body, test.want)
		}
	}
	for _, path := range []string{"/topic", "/topic/", "/publish", "/publish/", "/topics/a", "/published/a/b", "/TOPIC/a"} {
		s.get(path).wantNext(t)
	}
}

// TestTopicsAreOffUnlessNamed: a site that does not serve topics lets nobody join or publish by another way.
func TestTopicsAreOffUnlessNamed(t *testing.T) {
	s := serve(t, "megaphone {\n"+topicBroker+"\n}", "route {\nhandle_path /in/* {\n"+topicSite+"\n}\nmegaphone\nrespond \""+nextReply+"\"\n}")
	c := s.create()
	s.do(http.MethodPut, "/topic/t/"+c.ProducerAddress, nil, nil).wantNext(t)
	s.get("/topic/t").wantNext(t)
	s.get("/topic/a/b/c").wantNext(t)
	s.post("/publish/t/s", "1").wantNext(t)
	s.post("/create", `{"topics":["t"]}`).wantError(t, 403, "FORBIDDEN")
	s.createWith(`{"topics":[]}`)
	r := s.ingest(strings.NewReader(`{"topic":"t","streamId":"s","body":1}` + "\n" + ingestLine(c.ProducerAddress, "1")))
	if want := `{"written":1,"failures":[{"topic":"t","index":0,"reason":"FORBIDDEN"}],"failuresTotal":1}`; r.body != want {
		t.Errorf("ingest: %s, want %s", r.body, want)
	}
	s.do(http.MethodPost, "/write?close=t", linesHeader, strings.NewReader("")).wantError(t, 403, "FORBIDDEN")
	if got, want := s.get("/in/topic/t").body, `{"members":0,"connected":0,"kept":0,"closed":null}`; got != want {
		t.Errorf("the topic is %s, want %s", got, want)
	}
}

// TestClosingATopicNeedsNoBody: a body without content is none, also where only its end says so.
func TestClosingATopicNeedsNoBody(t *testing.T) {
	s := serveTopics(t, "")
	s.createWith(`{"topics":["a","b","c"]}`)
	for topic, body := range map[string]io.Reader{
		"a": nil, "b": struct{ io.Reader }{strings.NewReader("")}, // in chunks
	} {
		if r := s.do(http.MethodPost, "/topic/"+topic+"/close", nil, body); r.StatusCode != http.StatusOK {
			t.Errorf("close %s: %d %s", topic, r.StatusCode, r.body)
		}
		s.wantTopic(topic, `{"members":1,"connected":0,"kept":0,"closed":"done"}`)
	}
	s.do(http.MethodPost, "/topic/c/close", nil, strings.NewReader(`{}`)).wantError(t, 415, "UNSUPPORTED_MEDIA_TYPE")
}

// TestTopicsOfOtherOrigins: a site with origins answers their preflights, and no other site sets a header.
func TestTopicsOfOtherOrigins(t *testing.T) {
	s := serve(t, "megaphone {\n"+topicBroker+"\n}", "handle_path /open/* {\nmegaphone topics publish {\ncors_origins https://a.example\n}\n}\n"+topicSite)
	for path, methods := range map[string]string{
		"/topic/t": "GET, HEAD, PUT", "/topic/t/main.x": "PUT, DELETE", "/topic/t/close": "POST", "/publish/t/s": "POST",
	} {
		header := http.Header{"Origin": {"https://a.example"}, "Access-Control-Request-Method": {"PUT"}}
		if got := s.do(http.MethodOptions, "/open"+path, header, nil).Header.Get("Access-Control-Allow-Methods"); got != methods {
			t.Errorf("%s: methods %q, want %q", path, got, methods)
		}
		r := s.do(http.MethodOptions, path, header, nil)
		r.wantError(t, 405, "METHOD_NOT_ALLOWED")
		if r.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %v", path, r.Header)
		}
	}
}

// TestTopicsInTheAccessLog has the name of the topic, and no address.
func TestTopicsInTheAccessLog(t *testing.T) {
	file := newAccessLog(t)
	s := serve(t, "megaphone {\n"+topicBroker+"\n}", file.setting()+docFilter(t)+"}\nlog_append name {http.megaphone.topic}\n"+topicSite)
	c := s.create()
	file.entry()
	s.join("a/b", c, "")
	line, _ := file.entry()
	if strings.Contains(line, c.secret()) || !strings.Contains(line, `"topic":"a/b"`) || !strings.Contains(line, `"name":"a/b"`) {
		t.Errorf("a join is logged as %s", line)
	}
	s.publish("a/b", "1")
	file.wants(map[string]any{"endpoint": "publish", "topic": "a/b", "messages": 1})
	s.get("/topic/a%2Fb")
	file.wants(map[string]any{"endpoint": "topic", "topic": "a/b", "messages": 0})
}

// TestATopicIsClosedWithoutABody: some clients say only at its end that there is none, as over HTTP/3.
func TestATopicIsClosedWithoutABody(t *testing.T) {
	s := serve(t, "megaphone {\n"+topicBroker+"\n}", topicSite)
	c := s.rawClient()
	for request, status := range map[string]int{
		"Content-Length: 0\r\n\r\n":                                                                200,
		"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n":                                              200,
		"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":            200,
		"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n": 200,
		"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n":                                   415,
		"Content-Length: 2\r\n\r\n{}":                                                              415,
		"Content-Type: application/json\r\nContent-Length: 1\r\n\r\n ":                             400,
	} {
		c.send("POST /topic/t/close HTTP/1.1\r\nHost: localhost\r\n" + request)
		c.wants(status)
	}
}
