package megaphone_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-megaphone/megaphone/broker"
)

func topicLine(topic, body string) string {
	return fmt.Sprintf(`{"topic":%q,"streamId":"s","body":%s}`, topic, body) + "\n"
}

func TestIngestToTopics(t *testing.T) {
	s := serveTopics(t, "buffer 3")
	a, b := s.createWith(`{"topics":["t","\u00e9"]}`), s.create()
	s.call(200, http.MethodPut, "/topic/over", `{"keep":"1KB"}`)
	s.call(200, http.MethodPost, "/topic/over/close", "")
	lines := topicLine("t", "1") + ingestLine(b.ProducerAddress, "2") + "\n" + topicLine("é", "3") + topicLine("over", "4") +
		`{"topic":"t","channel":"` + b.ProducerAddress + `","streamId":"s","body":5}` + "\n" + topicLine("", "6") +
		topicLine(strings.Repeat("x", 256), "7") + topicLine("nobody", "8") + topicLine("t", "x") +
		topicLine("t", "9") + topicLine("t", "10") // a is full then, and misses it
	r := s.ingest(strings.NewReader(lines))
	want := `{"written":6,"failures":[{"topic":"over","index":3,"reason":"CLOSED"},{"topic":"t","index":4,"reason":"BAD_REQUEST"},` +
		`{"topic":"","index":5,"reason":"BAD_REQUEST"},{"topic":"` + strings.Repeat("x", 255) + `","index":6,"reason":"BAD_REQUEST"},` +
		`{"topic":"t","index":8,"reason":"BAD_REQUEST"}],"failuresTotal":5}`
	if r.StatusCode != http.StatusCreated || r.body != want {
		t.Errorf("%d\n%s, want\n%s", r.StatusCode, r.body, want)
	}
	s.read(a).wants("1", "3", "9")
	s.read(b).wants("2")
}

// streamTo begins an ingest that closes a topic, and waits until a member has its first line.
func (s *server) streamTo(topic string) (lines *rawClient, member *read) {
	s.Helper()
	member = s.read(s.createWith(fmt.Sprintf(`{"topics":[%q]}`, topic)))
	lines = s.rawClient()
	lines.send("POST /write?close=" + topic + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n" +
		chunk(topicLine(topic, "1")))
	member.wants("1")
	return lines, member
}

// chunk returns a chunk of a body.
func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

// chunk sends a chunk of a body.
func (c *rawClient) chunk(text string) {
	c.Helper()
	c.send(chunk(text))
}

// wantsEndOf waits for the end of a topic.
func (r *read) wantsEndOf(topic, how string) {
	r.Helper()
	if sid, rest := r.line(); sid != topic || rest != fmt.Sprintf(`"body":null,"end":%q}`, how) {
		r.Fatalf("got %s of stream %s, want the end %s of %s", rest, sid, how, topic)
	}
}

// TestATopicEndsWithItsProducer: whatever ends a streamed ingest ends its topics, after its lines.
func TestATopicEndsWithItsProducer(t *testing.T) {
	s := serveTopics(t, "max_message_size 1000")
	for name, test := range map[string]struct {
		last func(c *rawClient, topic string)
		want string
	}{
		"with its last line": {func(c *rawClient, topic string) {
			c.chunk(strings.TrimSpace(topicLine(topic, "2"))) // no line feed
			c.send("0\r\n\r\n")
			c.wants(http.StatusCreated)
		}, broker.EndDone},
		"after a bad line": {func(c *rawClient, topic string) {
			c.chunk("{}\n" + topicLine(topic, "2"))
			c.send("0\r\n\r\n")
			c.wants(http.StatusCreated)
		}, broker.EndDone},
		"with its connection": {func(c *rawClient, topic string) {
			c.chunk(topicLine(topic, "2"))
			c.Close()
		}, broker.EndAborted},
		"by a chunk that is malformed": {func(c *rawClient, topic string) {
			c.chunk(topicLine(topic, "2"))
			c.send("no chunk\r\n")
		}, broker.EndAborted},
		"by a line that is too long": {func(c *rawClient, topic string) {
			c.chunk(topicLine(topic, "2") + strings.Repeat("x", 1001))
			c.wants(http.StatusRequestEntityTooLarge)
		}, broker.EndAborted},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			topic := strings.ReplaceAll(name, " ", "-")
			lines, member := s.streamTo(topic)
			test.last(lines, topic)
			member.wants("2")
			member.wantsEndOf(topic, test.want)
			s.post("/publish/"+topic+"/s", "1").wantError(t, 409, "CLOSED")
		})
	}
}

// TestATopicEndsWithAPauseOfItsProducer that is longer than Caddy's read_body_idle.
func TestATopicEndsWithAPauseOfItsProducer(t *testing.T) {
	s := serve(t, "servers {\ntimeouts {\nread_body_idle 200ms\n}\n}\nmegaphone {\n"+topicBroker+"\n}", topicSite)
	lines, member := s.streamTo("t")
	lines.wants(http.StatusBadRequest)
	member.wantsEndOf("t", broker.EndAborted)
}

// TestATopicEndsWithAPanic of the ingest's handler.
func TestATopicEndsWithAPanic(t *testing.T) {
	s := serve(t, "megaphone {\nbroker topical\n}", topicSite)
	lines, member := s.streamTo("t")
	lines.chunk(topicLine("t", "2") + topicLine("panic", "3"))
	member.wants("2")
	member.wantsEndOf("t", broker.EndAborted)
}

// TestAnIngestClosesSeveralTopics, and a topic that is closed already does no harm.
func TestAnIngestClosesSeveralTopics(t *testing.T) {
	s := serveTopics(t, "")
	for _, topic := range []string{"a", "b", "c%2Fd"} {
		s.call(200, http.MethodPut, "/topic/"+topic, `{"keep":"1KB"}`)
	}
	s.call(200, http.MethodPost, "/topic/b/close", `{"as":"aborted"}`)
	r := s.do(http.MethodPost, "/write?close=a&close=b&close=c%2Fd", linesHeader, strings.NewReader(topicLine("a", "1")))
	if want := `{"written":1,"failures":[],"failuresTotal":0}`; r.StatusCode != http.StatusCreated || r.body != want {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	for topic, how := range map[string]string{"a": "done", "b": "aborted", "c/d": "done"} {
		if r := s.get("/topic/" + url.PathEscape(topic)); !strings.Contains(r.body, `"closed":"`+how+`"`) {
			t.Errorf("topic %s: %s", topic, r.body)
		}
	}
	for query, want := range map[string]string{
		"close=": "1 to 255 bytes", "close=%FF": "UTF-8", strings.Repeat("close=a&", 101) + "x": "more than 100 times",
	} {
		r := s.do(http.MethodPost, "/write?"+query, linesHeader, strings.NewReader(""))
		r.wantError(t, 400, "BAD_REQUEST")
		if !strings.Contains(r.body, want) {
			t.Errorf("%s: %s, want %q", query, r.body, want)
		}
	}
}

// TestTheExitEndsTopicsOfOpenIngests while there is still a Broker that can tell their members, which may have moved to another
// server.
func TestTheExitEndsTopicsOfOpenIngests(t *testing.T) {
	s := serve(t, "megaphone {\nbroker topical\n}", topicSite)
	_, member := s.streamTo("exits")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	wantClosed(t, "exits aborted")
	member.response.Body.Close()
}

// wantClosed waits until a topic of a topicGuest was closed as this note says.
func wantClosed(t *testing.T, want string) {
	t.Helper()
	topic, _, _ := strings.Cut(want, " ")
	for {
		select {
		case got := <-closedTopics:
			if got == want {
				return
			}
			if strings.HasPrefix(got, topic+" ") {
				t.Fatalf("closed: %s, want %s", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("never closed: %s", want)
		}
	}
}

// TestATopicThatCannotBeClosed: the producer learns it. If it is gone, the log does.
func TestATopicThatCannotBeClosed(t *testing.T) {
	path := t.TempDir() + "/log"
	s := serve(t, "log faults {\noutput file "+path+" {\nroll_disabled\n}\n}\nmegaphone {\nbroker topical\n}", topicSite)
	r := s.do(http.MethodPost, "/write?close=storage", linesHeader, strings.NewReader(topicLine("t", "1")))
	if r.StatusCode != 503 || !strings.Contains(r.body, `"code":"STORAGE_UNAVAILABLE"`) || !strings.Contains(r.body, `"written":1`) {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	body, lines := io.Pipe()
	lines.CloseWithError(errors.New("the producer is gone"))
	request, _ := http.NewRequestWithContext(s.Context(), http.MethodPost, "http://localhost/write?close=fault", body)
	request.Header = linesHeader
	if _, err := s.client.Do(request); err == nil {
		t.Error("the request has a reply")
	}
	s.eventually(func() bool {
		text := readLog(t, path)
		return strings.Contains(text, "topics could not be closed") && strings.Contains(text, `"topics":["fault"]`)
	})
}

// TestFaultsOfTopics: each error of a Broker has its reply, which says nothing of the machine.
func TestFaultsOfTopics(t *testing.T) {
	s := serve(t, "megaphone {\nbroker topical\n}", topicSite)
	for topic, want := range map[string]struct {
		status int
		code   string
	}{
		"memory": {503, "LIMIT_REACHED"}, "storage": {503, "STORAGE_UNAVAILABLE"}, "unknown": {503, "TIMEOUT"}, "store": {503, "TIMEOUT"},
		"fault": {500, "INTERNAL_SERVER_ERROR"},
	} {
		r := s.post("/publish/"+topic+"/s", "1")
		r.wantError(t, want.status, want.code)
		if strings.Contains(r.body, "secret") {
			t.Errorf("%s: %s", topic, r.body)
		}
		if got := s.ingest(strings.NewReader(topicLine(topic, "1"))).body; !strings.Contains(got, `{"topic":"`+topic+`","index":0,"reason":"`+want.code+`"}`) {
			t.Errorf("%s: ingest: %s", topic, got)
		}
	}
	s.wantMetrics(map[string]float64{`limit_refusals_total{limit="max_memory"}`: 2})
	closing := s.post("/topic/unknown/close", "{}")
	closing.wantError(t, 503, "TIMEOUT")
	if !strings.Contains(closing.body, "whether the request was done: repeat it") { // it has no message
		t.Errorf("close: %s", closing.body)
	}
}

// TestABrokerWithoutTopics: a site cannot serve them, and the error says what to do. create takes an empty list all the same.
func TestABrokerWithoutTopics(t *testing.T) {
	s := serve(t, "megaphone {\nbroker guest\n}", "megaphone create write")
	s.createWith(`{"topics":[]}`)
	s.post("/create", `{"topics":["t"]}`).wantError(t, 403, "FORBIDDEN")
	for _, name := range []string{"topics", "publish"} {
		err := s.load("megaphone {\nbroker guest\n}", "megaphone create "+name)
		if err == nil || !strings.Contains(err.Error(), `endpoint "`+name+`": the broker guest has no topics: leave the endpoint out, or use another broker, such as memory or redis`) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// readLog returns what a log file has.
func readLog(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestMembersThatJoinDuringAnIngestHaveAllOfIt: over each transport they get what is kept, what comes, and the end, each once and
// in order.
func TestMembersThatJoinDuringAnIngestHaveAllOfIt(t *testing.T) {
	const pieces = 300
	s := serveTopics(t, "buffer 1000")
	s.call(200, http.MethodPut, "/topic/answer", `{"keep":"1MB"}`)
	body, lines := io.Pipe()
	ingested := make(chan reply, 1)
	go func() { ingested <- s.do(http.MethodPost, "/write?close=answer", linesHeader, body) }()
	var members sync.WaitGroup
	for i := range pieces {
		if _, err := io.WriteString(lines, topicLine("answer", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		if i%50 != 0 {
			continue
		}
		read := []func(channel) *bufio.Scanner{s.scanNDJSON, s.scanSSE, s.scanWebSocket}[i/50%3]
		c := s.createWith(`{"topics":[{"topic":"answer","last":"all"}]}`)
		members.Go(func() {
			next, scanner := 0, read(c)
			for scanner.Scan() {
				text := strings.TrimPrefix(scanner.Text(), "data: ")
				if !strings.HasPrefix(text, "{") {
					continue
				}
				_, rest := splitLine(t, text)
				if rest == `"body":null,"end":"done"}` {
					break
				}
				if rest != fmt.Sprintf(`"body":%d}`, next) {
					t.Errorf("joined at %d: got %s, want %d", i, rest, next)
					return
				}
				next++
			}
			if next != pieces {
				t.Errorf("joined at %d: it has %d of %d pieces", i, next, pieces)
			}
		})
	}
	lines.Close()
	if r := <-ingested; r.body != fmt.Sprintf(`{"written":%d,"failures":[],"failuresTotal":0}`, pieces) {
		t.Errorf("ingest: %s", r.body)
	}
	members.Wait()
}

func (s *server) scanNDJSON(c channel) *bufio.Scanner {
	return bufio.NewScanner(s.read(c).response.Body)
}

func (s *server) scanSSE(c channel) *bufio.Scanner { return bufio.NewScanner(s.openSSE(c).Body) }

// scanWebSocket returns the messages of a WebSocket as lines.
func (s *server) scanWebSocket(c channel) *bufio.Scanner {
	conn := s.dial(c, "?after=")
	out, in := io.Pipe()
	s.Cleanup(func() { out.Close() })
	go func() {
		for {
			_, text, err := conn.Read(s.Context())
			if err == nil {
				_, err = fmt.Fprintf(in, "%s\n", text)
			}
			if err != nil {
				in.CloseWithError(err)
				return
			}
		}
	}()
	return bufio.NewScanner(out)
}
