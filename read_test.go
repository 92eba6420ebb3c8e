package megaphone_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestReadSendsLinesAndEndsCleanly(t *testing.T) {
	const duration = 200 * time.Millisecond
	s := serve(t, "megaphone {\nread_duration 200ms\n}", "megaphone")
	c := s.create()
	s.write(c, `{"n": 1}`)
	start := time.Now()
	r := s.read(c)
	for name, want := range map[string]string{
		"Content-Type": "application/x-ndjson", "Cache-Control": "no-store, no-transform", "Incremental": "?1",
		"X-Accel-Buffering": "no", "Megaphone-Resume": "", "Access-Control-Allow-Origin": "", "Vary": "",
	} {
		if got := r.response.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	line, err := r.lines.ReadString('\n')
	shape := regexp.MustCompile(`^\{"sid":"stream","eid":"[0-9a-f-]{36}","ts":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z","body":\{"n":1\}\}\n$`)
	if err != nil || !shape.MatchString(line) {
		t.Errorf("line %q, %v", line, err)
	}
	r.ends()
	if took := time.Since(start); took < duration {
		t.Errorf("the read lasted %v, want at least %v", took, duration)
	}
	s.write(c, "2")
	s.read(c).wants("2") // the clean end has settled the first message
}

// TestRefusedReadsTakeASecond: existing clients repeat them at once.
func TestRefusedReadsTakeASecond(t *testing.T) {
	s := serve(t, "megaphone {\nmax_readers 1\n}", "megaphone")
	a, b := s.create(), s.create()
	s.read(a)
	type refusal struct {
		reply

		took time.Duration
	}
	refused := func(c channel) <-chan refusal {
		refusals := make(chan refusal, 1)
		go func() {
			start := time.Now()
			r := s.get(c.readPath())
			refusals <- refusal{r, time.Since(start)}
		}()
		return refusals
	}
	refusals := []<-chan refusal{refused(a), refused(b)}
	second, other := <-refusals[0], <-refusals[1]
	second.wantError(t, 409, "BUSY")
	other.wantLimit(t, 503)
	if took := min(second.took, other.took); took < time.Second {
		t.Errorf("refused after %v", took)
	}
	s.poll(a).wantError(t, 409, "BUSY")
	s.wantMetrics(map[string]float64{`limit_refusals_total{limit="max_readers"}`: 1})
}

func TestUnknownChannelsAreNotFound(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	for _, address := range []string{c.ProducerAddress, "other" + strings.TrimPrefix(c.ConsumerAddress, "main"), c.ConsumerAddress + ".suffix", "x", "%2e%2e"} {
		s.get("/read/"+address+"?poll=0").wantError(t, 404, "NOT_FOUND")
		s.do(http.MethodHead, "/read/"+address, nil, nil)
	}
}

func TestHeadConsumesNothing(t *testing.T) {
	s := serve(t, "megaphone {\nread_duration 50ms\n}", "megaphone")
	c := s.create()
	s.write(c, "1")
	r := s.do(http.MethodHead, c.readPath(), nil, nil)
	if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("HEAD: %d %v", r.StatusCode, r.Header)
	}
	if r := s.do(http.MethodHead, "/read/main.x", nil, nil); r.StatusCode != http.StatusNotFound {
		t.Errorf("HEAD of an unknown channel: %d", r.StatusCode)
	}
	s.read(c).ends("1")
}

func TestReadOverHTTP10(t *testing.T) {
	s := serve(t, "megaphone {\nread_duration 50ms\n}", "megaphone")
	c := s.create()
	s.write(c, "1")
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /read/%s HTTP/1.0\r\nHost: localhost\r\n\r\n", c.ConsumerAddress)
	text, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(text), "200 OK") || !strings.HasSuffix(string(text), `"body":1}`+"\n") {
		t.Errorf("%q, %v", text, err)
	}
}

func TestAnAbortedReadLosesNothing(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	for i := range 3 {
		s.write(c, fmt.Sprint(i))
	}
	r := s.read(c)
	r.wants("0", "1")
	r.close()
	s.write(c, "3")
	s.awaitNoReader(c)
	again := s.read(c)
	again.wants("0", "1", "2", "3")
	s.write(c, "4")
	again.wants("4")
}

func TestServerSentEvents(t *testing.T) {
	s := serve(t, "megaphone {\nstream_duration 750ms\nheartbeat 200ms\n}", "megaphone")
	c := s.create()
	read := s.read(c)
	response := s.openSSE(c) // takes over
	read.ends()
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %q", got)
	}
	s.write(c, `"line\nfeed"`)
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	shape := regexp.MustCompile(`^retry: 1000\nid: ([0-9a-f-]{36})\ndata: (\{"sid":"stream","eid":"[0-9a-f-]{36}","ts":"[^"]+","body":"line\\nfeed"\})\n\n(:\n){1,4}$`)
	match := shape.FindStringSubmatch(string(text))
	if match == nil || !strings.Contains(match[2], match[1]) {
		t.Fatalf("stream %q", text)
	}
	header := http.Header{"Accept": {"text/event-stream"}}
	const named = "retry: 1000\nevent: stream\nid: "
	begin := make([]byte, len(named))
	if _, err := io.ReadFull(s.open(http.MethodGet, c.readPath()+"?event=sid", header, nil).Body, begin); err != nil || string(begin) != named {
		t.Errorf("with ?event=sid: %q, %v", begin, err)
	}
	if r := s.do(http.MethodGet, c.readPath()+"?event=id", header, nil); r.StatusCode != http.StatusBadRequest || !strings.Contains(r.body, "event takes only sid") {
		t.Errorf("with ?event=id: %d %s", r.StatusCode, r.body)
	}
	s.write(c, `"next"`)
	for _, test := range []struct{ lastEvent, want string }{{"", `"line\nfeed"`}, {match[1], `"next"`}} {
		header := header.Clone()
		if test.lastEvent != "" {
			header.Set("Last-Event-ID", test.lastEvent)
		}
		lines := bufio.NewScanner(s.open(http.MethodGet, c.readPath(), header, nil).Body) // takes over
		for lines.Scan() && !strings.HasPrefix(lines.Text(), "data:") {
		}
		if !strings.HasSuffix(lines.Text(), test.want+"}") {
			t.Errorf("after %q: the first message is %q, %v, want %s", test.lastEvent, lines.Text(), lines.Err(), test.want)
		}
	}
}

func TestTheRequestChoosesTheTransport(t *testing.T) {
	s := serve(t, "megaphone {\nread_duration 10ms\nstream_duration 10ms\n}", `
		handle_path /all/* {
			megaphone
		}
		handle_path /sse/* {
			megaphone read {
				transports sse
			}
		}
		handle_path /plain/* {
			megaphone create read {
				transports ndjson
			}
		}
		handle_path /ws/* {
			megaphone read {
				transports websocket
			}
		}`)
	var c channel
	if err := json.Unmarshal([]byte(s.do(http.MethodPost, "/all/create", nil, nil).body), &c); err != nil {
		t.Fatal(err)
	}
	const ndjson, sse = "application/x-ndjson", "text/event-stream"
	for _, test := range []struct {
		site, query, accept string
		status              int
		contentType         string
	}{
		{"all", "", "", 200, ndjson},
		{"all", "", "*/*", 200, ndjson},
		{"all", "", "application/json", 200, ndjson},
		{"all", "", "text/event-stream", 200, sse},
		{"all", "", "text/html, TEXT/Event-Stream ; q=0.5", 200, sse},
		{"all", "", "text/event-stream;q=0", 200, ndjson},
		{"all", "", "text/event-stream;q=0.5, application/x-ndjson", 200, ndjson},
		{"all", "", "text/event-stream, application/x-ndjson;q=0.9", 200, sse},
		{"all", "", "text/event-stream;q=x", 200, ndjson},
		{"all", "?poll=0", "text/event-stream", 200, ndjson},
		{"sse", "", "text/event-stream", 200, sse},
		{"sse", "", "application/x-ndjson, text/event-stream;q=0.1", 200, sse},
		{"sse", "", "*/*", 406, ""},
		{"sse", "?poll=0", "", 400, ""},
		{"plain", "", "text/event-stream", 406, ""},
		{"plain", "", "text/event-stream, */*;q=0.1", 200, ndjson},
		{"plain", "", "", 200, ndjson},
		{"ws", "", "", 426, ""},
	} {
		header := http.Header{}
		if test.accept != "" {
			header.Set("Accept", test.accept)
		}
		r := s.do(http.MethodGet, "/"+test.site+c.readPath()+test.query, header, nil)
		if test.status == 200 {
			if r.StatusCode != 200 || r.Header.Get("Content-Type") != test.contentType {
				t.Errorf("%+v: %d %q", test, r.StatusCode, r.Header.Get("Content-Type"))
			}
			continue
		}
		r.wantError(t, test.status, "NOT_ACCEPTABLE")
		if offered := map[string]string{"plain": "ndjson", "ws": "websocket", "sse": "sse"}[test.site]; !strings.Contains(r.body, "there is "+offered) {
			t.Errorf("%+v: the reply does not name what is offered: %s", test, r.body)
		}
	}
	upgrade := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	s.do(http.MethodGet, "/plain"+c.readPath(), upgrade, nil).wantError(t, 404, "NOT_ACCEPTABLE")
	s.do(http.MethodPost, "/plain/create", nil, strings.NewReader(`{"protocols":["WEBSOCKET_V1"]}`)).wantError(t, 400, "BAD_REQUEST")
}
