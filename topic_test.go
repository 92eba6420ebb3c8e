package megaphone_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// topicBroker is the setting of a Broker with topics.
const topicBroker = "broker memory"

// topicSite is a site that serves topics too.
const topicSite = "megaphone create write read exists manage topics publish"

// serveTopics runs Caddy with a site that serves topics.
func serveTopics(t *testing.T, settings string) *server {
	t.Helper()
	return serve(t, "megaphone {\n"+topicBroker+"\n"+settings+"\n}", topicSite)
}

// createWith creates a channel with a body, which must succeed.
func (s *server) createWith(body string) channel {
	s.Helper()
	r := s.post("/create", body)
	var c channel
	if err := json.Unmarshal([]byte(r.body), &c); err != nil || r.StatusCode != http.StatusOK {
		s.Fatalf("create: %d %s", r.StatusCode, r.body)
	}
	return c
}

// call sends a request about topics, which must succeed with this status.
func (s *server) call(status int, method, path, body string) (replied string) {
	s.Helper()
	r := s.do(method, path, jsonHeader, strings.NewReader(body))
	if r.StatusCode != status || r.Header.Get("Content-Type") != "application/json" {
		s.Fatalf("%s %s: %d %s, want %d", method, path, r.StatusCode, r.body, status)
	}
	return r.body
}

// publish publishes a message to a topic. It returns the reply.
func (s *server) publish(topic, body string) string {
	s.Helper()
	return s.call(202, http.MethodPost, "/publish/"+url.PathEscape(topic)+"/stream", body)
}

func (s *server) join(topic string, c channel, query string) {
	s.Helper()
	if got := s.call(200, http.MethodPut, "/topic/"+url.PathEscape(topic)+"/"+c.ProducerAddress+query, ""); got != `{"status":"OK"}` {
		s.Errorf("join: %s", got)
	}
}

// wantTopic waits until a topic has this state.
func (s *server) wantTopic(topic, want string) {
	s.Helper()
	got := ""
	for range 500 {
		if got = s.get("/topic/" + url.PathEscape(topic)).body; got == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.Fatalf("topic %s is %s, want %s", topic, got, want)
}

// line waits for the next line of a read, and returns its stream id, and the rest without its event id and its time.
func (r *read) line() (sid, rest string) {
	r.Helper()
	text, err := r.lines.ReadString('\n')
	if err != nil {
		r.Fatalf("%q: %v", text, err)
	}
	return splitLine(r.T, strings.TrimSpace(text))
}

// splitLine returns the stream id of a line, and the rest without its event id and its time.
func splitLine(t *testing.T, line string) (sid, rest string) {
	t.Helper()
	var m message
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return m.SID, strings.NewReplacer(`{"sid":"`+m.SID+`",`, "", `"eid":"`+m.EID+`",`, "", `"ts":"`+m.TS+`",`, "").Replace(line)
}

func TestTopics(t *testing.T) {
	s := serveTopics(t, "")
	a, b, old := s.createWith(`{"topics":["news/1"]}`), s.createWith(`{"topics":[]}`), s.create()
	if got, want := s.publish("news/1", "1"), `{"members":1,"accepted":1,"full":0}`; got != want {
		t.Errorf("published: %s, want %s", got, want)
	}
	s.join("news/1", b, "")
	s.join("news/1", b, "")
	s.join("news/1", old, "")
	reads := []*read{s.read(a), s.read(b), s.read(old)}
	reads[0].wants("1")
	s.wantTopic("news/1", `{"members":3,"connected":3,"kept":0,"closed":null}`)
	if got, want := s.publish("news/1", ` { "n": 2 } `), `{"members":3,"accepted":3,"full":0}`; got != want {
		t.Errorf("published: %s, want %s", got, want)
	}
	first := reads[0].next()
	for _, read := range reads[1:] {
		if m := read.next(); m.EID != first.EID || m.TS != first.TS || m.SID != "stream" || string(m.Body) != `{"n":2}` {
			t.Errorf("a member has %+v, another one %+v", m, first)
		}
	}
	s.call(200, http.MethodDelete, "/topic/news%2F1/"+a.ProducerAddress, "")
	s.call(200, http.MethodDelete, "/topic/news%2F1/"+a.ProducerAddress, "")
	if got, want := s.publish("news/1", "3"), `{"members":2,"accepted":2,"full":0}`; got != want {
		t.Errorf("published: %s, want %s", got, want)
	}
	reads[1].wants("3")
	reads[2].wants("3")

	s.call(200, http.MethodPost, "/topic/news%2F1/close", `{"as":"aborted","streamId":"bye"}`)
	if sid, rest := reads[1].line(); sid != "bye" || rest != `"body":null,"end":"aborted"}` {
		t.Errorf("the end is of stream %s, and %s", sid, rest)
	}
	s.post("/publish/news%2F1/s", "4").wantError(t, 409, "CLOSED")
	s.call(200, http.MethodPost, "/topic/news%2F1/close", "")
	s.wantTopic("news/1", `{"members":2,"connected":2,"kept":0,"closed":"aborted"}`)
	s.write(a, "5")
	s.write(old, "5")
	reads[0].wants("5")
	reads[2].wants("5") // this channel does not know topics
	s.wantTopic("never", `{"members":0,"connected":0,"kept":0,"closed":null}`)
}

// TestAMemberThatJoinsLater gets what is kept and what is published later, without a gap or a double, and the end.
func TestAMemberThatJoinsLater(t *testing.T) {
	s := serveTopics(t, "buffer 10")
	s.call(200, http.MethodPut, "/topic/answer", `{"keep":"100KB","ttl":"10m"}`)
	for _, body := range []string{"1", "2", "3"} {
		s.publish("answer", body)
	}
	s.wantTopic("answer", `{"members":0,"connected":0,"kept":3,"closed":null}`)
	all, two, none := s.createWith(`{"topics":[{"topic":"answer","last":"all"}]}`), s.createWith(`{"topics":[]}`), s.createWith(`{"topics":["answer"]}`)
	s.join("answer", two, "?last=2")
	s.publish("answer", "4")
	s.call(200, http.MethodPost, "/topic/answer/close", `{}`)
	late := s.createWith(`{"topics":[{"topic":"answer","last":2}]}`)
	for _, test := range []struct {
		c    channel
		want []string
	}{{all, []string{"1", "2", "3", "4"}}, {two, []string{"2", "3", "4"}}, {none, []string{"4"}}, {late, []string{"3", "4"}}} {
		read := s.read(test.c)
		read.wants(test.want...)
		if sid, rest := read.line(); sid != "answer" || rest != `"body":null,"end":"done"}` {
			t.Errorf("the end is of stream %s, and %s", sid, rest)
		}
	}
}

// TestMissedMessages: a line says how many messages its channel has missed before, over each transport.
func TestMissedMessages(t *testing.T) {
	s := serveTopics(t, "buffer 2")
	const want = `"missed":2,"body":5}`
	fill := func() channel {
		c := s.createWith(`{"topics":["t"]}`)
		for i := range 4 {
			full := max(0, i-1)
			if got := s.publish("t", fmt.Sprint(i+1)); got != fmt.Sprintf(`{"members":1,"accepted":%d,"full":%d}`, 1-min(full, 1), min(full, 1)) {
				t.Errorf("message %d: %s", i+1, got)
			}
		}
		return c
	}
	next := func(c channel) {
		s.publish("t", "5")
		s.call(200, http.MethodPost, "/topic/other/close", "")
		s.call(200, http.MethodDelete, "/topic/t/"+c.ProducerAddress, "")
	}
	t.Run("ndjson", func(t *testing.T) {
		c := fill()
		read := s.in(t).read(c)
		read.wants("1", "2")
		next(c)
		if _, rest := read.line(); rest != want {
			t.Errorf("got %s, want %s", rest, want)
		}
	})
	t.Run("poll", func(t *testing.T) {
		c := fill()
		s.poll(c)
		next(c)
		lines := strings.Split(strings.TrimSpace(s.poll(c).body), "\n")
		if _, rest := splitLine(t, lines[len(lines)-1]); rest != want {
			t.Errorf("got %s, want %s", rest, want)
		}
	})
	t.Run("sse", func(t *testing.T) {
		c := fill()
		lines := bufio.NewScanner(s.open(http.MethodGet, c.readPath()+"?event=sid", http.Header{"Accept": {"text/event-stream"}}, nil).Body)
		named := 0
		for received := 0; lines.Scan(); {
			if lines.Text() == "event: stream" {
				named++
			}
			data, ok := strings.CutPrefix(lines.Text(), "data: ")
			if !ok {
				continue
			}
			if received++; received == 2 {
				next(c)
			} else if _, rest := splitLine(t, data); received == 3 {
				if rest != want || named != received {
					t.Errorf("got %s, and %d of %d events have a name, want %s", rest, named, received, want)
				}
				return
			}
		}
		t.Error("the stream ends before the message")
	})
	t.Run("websocket", func(t *testing.T) {
		c := fill()
		conn := s.in(t).dial(c, "?after=")
		s.in(t).wantMessages(conn, "1", "2")
		next(c)
		kind, text, err := conn.Read(s.Context())
		if err != nil || kind != websocket.MessageText {
			t.Fatal(kind, err)
		}
		if _, rest := splitLine(t, string(text)); rest != want {
			t.Errorf("got %s, want %s", rest, want)
		}
	})
}

// TestMetricsOfTopics checks the value of each.
func TestMetricsOfTopics(t *testing.T) {
	s := serveTopics(t, "buffer 1")
	s.createWith(`{"topics":["a","b"]}`)
	s.call(200, http.MethodPut, "/topic/a", `{"keep":"1KB"}`)
	s.publish("a", "1")
	s.publish("a", "2")
	s.publish("nobody", "3")
	s.wantMetrics(map[string]float64{
		"topics{}": 2, "topic_members{}": 2, "messages_published_total{}": 3, "messages_skipped_total{}": 1, "messages_accepted_total{}": 1,
	})
	if got := s.metrics()["caddy_megaphone_topic_kept_bytes{}"]; got < 100 || got > 1000 {
		t.Errorf("the topic keeps %v bytes", got)
	}
}

// TestFullMembers: a publish can wait for them, or delete them.
func TestFullMembers(t *testing.T) {
	s := serveTopics(t, "buffer 1\nhold 200ms")
	c := s.createWith(`{"topics":["t"]}`)
	s.publish("t", "1")
	const path = "/publish/t/stream?full="
	if got, want := s.call(202, http.MethodPost, path+"hold", "2"), `{"members":1,"accepted":0,"full":1}`; got != want {
		t.Errorf("held: %s, want %s", got, want)
	}
	if got, want := s.call(202, http.MethodPost, path+"delete", "3"), `{"members":1,"accepted":0,"full":1}`; got != want {
		t.Errorf("deleted: %s, want %s", got, want)
	}
	s.get(c.readPath()+"?poll=0").wantError(t, 404, "NOT_FOUND")
}

// TestAPublishWithAKeyHasOneEffect: a repeat counts as accepted, and changes nothing.
func TestAPublishWithAKeyHasOneEffect(t *testing.T) {
	s := serveTopics(t, "")
	c := s.createWith(`{"topics":["t"]}`)
	header := http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {"k"}}
	for range 2 {
		r := s.do(http.MethodPost, "/publish/t/s", header, strings.NewReader("1"))
		if want := `{"members":1,"accepted":1,"full":0}`; r.body != want {
			t.Errorf("%s, want %s", r.body, want)
		}
	}
	if body := s.poll(c).body; strings.Count(body, "\n") != 1 {
		t.Errorf("the member has %s", body)
	}
}

// TestTopicRequestsThatAreRefused names what is wrong with each.
func TestTopicRequestsThatAreRefused(t *testing.T) {
	s := serveTopics(t, "max_topics 2\nmax_ttl 2h\nmax_memory 1MB\nmax_message_size 1000")
	c := s.create()
	long, member := strings.Repeat("x", 256), "/topic/t/"+c.ProducerAddress
	for _, test := range []struct {
		method, path, body string
		status             int
		code, message      string
	}{
		{"GET", "/topic/" + long, "", 400, "BAD_REQUEST", "1 to 255 bytes"},
		{"GET", "/topic/%FF", "", 400, "BAD_REQUEST", "UTF-8"},
		{"POST", "/publish/" + long + "/s", "1", 400, "BAD_REQUEST", "1 to 255 bytes"},
		{"PUT", "/topic/t/" + c.ConsumerAddress, "", 404, "NOT_FOUND", "no such channel"},
		{"PUT", "/topic/t/main.x", "", 404, "NOT_FOUND", "no such channel"},
		{"DELETE", "/topic/t/main.x", "", 404, "NOT_FOUND", "no such channel"},
		{"PUT", member + "?last=-1", "", 400, "BAD_REQUEST", "last is"},
		{"PUT", member + "?last=", "", 400, "BAD_REQUEST", "last is"},
		{"PUT", member + "?last=1&last=2", "", 400, "BAD_REQUEST", "more than once"},
		{"PUT", "/topic/t", `{"keep":"some"}`, 400, "BAD_REQUEST", "from 0 to 1000000 bytes"},
		{"PUT", "/topic/t", `{"keep":"2MB"}`, 400, "BAD_REQUEST", "from 0 to 1000000 bytes"},
		{"PUT", "/topic/t", `{"keep":1}`, 400, "BAD_REQUEST", "keep"},
		{"PUT", "/topic/t", `{"ttl":"3h"}`, 400, "BAD_REQUEST", "from 1s to 2h0m0s"},
		{"PUT", "/topic/t", `{"ttl":"1ms"}`, 400, "BAD_REQUEST", "from 1s to 2h0m0s"},
		{"PUT", "/topic/t", `{`, 400, "BAD_REQUEST", "not as expected"},
		{"POST", "/topic/t/close", `{"as":"later"}`, 400, "BAD_REQUEST", "done or aborted"},
		{"POST", "/topic/t/close", `{"streamId":""}`, 400, "BAD_REQUEST", "stream id is empty"},
		{"POST", "/publish/t/s?full=x", `1`, 400, "BAD_REQUEST", "hold or delete"},
		{"POST", "/publish/t/s", `{`, 400, "BAD_REQUEST", "JSON"},
		{"POST", "/publish/t/", `1`, 400, "BAD_REQUEST", "stream id is empty"},
		{"POST", "/publish/t/s", strings.Repeat("1", 1001), 413, "PAYLOAD_TOO_LARGE", ""},
		{"PATCH", "/topic/t", "", 405, "METHOD_NOT_ALLOWED", "GET and HEAD and PUT"},
		{"GET", member, "", 405, "METHOD_NOT_ALLOWED", "PUT and DELETE"},
		{"GET", "/topic/t/close", "", 405, "METHOD_NOT_ALLOWED", "POST"},
		{"GET", "/publish/t/s", "", 405, "METHOD_NOT_ALLOWED", "POST"},
		{"POST", "/create", `{"topics":["a","b","c"]}`, 409, "LIMIT_REACHED", "as many topics"},
		{"POST", "/create", `{"topics":"a"}`, 400, "BAD_REQUEST", "topics is a list"},
		{"POST", "/create", `{"topics":["a","a"]}`, 400, "BAD_REQUEST", "topics[1]: the topic is in the list already"},
		{"POST", "/create", `{"topics":[""]}`, 400, "BAD_REQUEST", "topics[0]: the name of a topic"},
		{"POST", "/create", `{"topics":[1]}`, 400, "BAD_REQUEST", `topics[0]: write "a"`},
		{"POST", "/create", `{"topics":["\ud800"]}`, 400, "BAD_REQUEST", `topics[0]: write "a"`},
		{"POST", "/create", `{"topics":[{"topic":"a","last":"some"}]}`, 400, "BAD_REQUEST", `topics[0]: write "a"`},
		{"POST", "/create", `{"topics":[{"topic":"a","last":-1}]}`, 400, "BAD_REQUEST", `topics[0]: write "a"`},
		{"POST", "/create", `{"ttl":"3h"}`, 400, "BAD_REQUEST", "from 1s to 2h0m0s"},
		{"POST", "/create", `{"ttl":"500ms"}`, 400, "BAD_REQUEST", "from 1s to 2h0m0s"},
		{"POST", "/create", `{"ttl":60}`, 400, "BAD_REQUEST", "ttl is a duration"},
	} {
		r := s.do(test.method, test.path, jsonHeader, strings.NewReader(test.body))
		r.wantError(t, test.status, test.code)
		if !strings.Contains(r.body, strings.ReplaceAll(test.message, `"`, `\"`)) {
			t.Errorf("%s %s %s: %s, want %q", test.method, test.path, test.body, r.body, test.message)
		}
		if test.status == 405 && r.Header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", test.method, test.path)
		}
	}
	s.join("1", c, "")
	s.join("2", c, "")
	s.do(http.MethodPut, "/topic/3/"+c.ProducerAddress, nil, nil).wantError(t, 409, "LIMIT_REACHED")
	s.wantMetrics(map[string]float64{`limit_refusals_total{limit="max_topics"}`: 2})
}

// TestCreateStillTakesAnyBody: existing clients send bodies that nobody can read, and get a channel.
func TestCreateStillTakesAnyBody(t *testing.T) {
	s := serveTopics(t, "")
	for _, body := range []string{
		"", "{", "[]", "1", `"topics"`, `{"protocols":5}`, `{"protocols":null,"topics":null,"ttl":null}`, `{"topics":["a"]`, "\xff",
		`{"topic":["a"],"time":1}`, strings.Repeat("x", 70_000),
	} {
		s.createWith(body)
	}
}

// TestCreateWithATTL: the channel lives as long as its own ttl says, not as long as the setting.
func TestCreateWithATTL(t *testing.T) {
	s := serve(t, "megaphone {\nttl 100ms\n}", "megaphone create write read manage")
	short, long := s.create(), s.createWith(`{"ttl":"10m"}`)
	var state struct{ Created, Expires time.Time }
	if err := json.Unmarshal([]byte(s.get("/channel/"+long.ProducerAddress).body), &state); err != nil {
		t.Fatal(err)
	}
	if life := state.Expires.Sub(state.Created); life < 9*time.Minute || life > 11*time.Minute {
		t.Errorf("the channel lives %v", life)
	}
	s.eventually(func() bool { return s.get("/channel/"+short.ProducerAddress).StatusCode == 404 })
	s.write(long, "1")
}
