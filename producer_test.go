package megaphone_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestCreateReplies(t *testing.T) {
	s := serve(t, "", "megaphone")
	ndjson := []string{"HTTP_STREAM_NDJSON_V1"}
	for name, test := range map[string]struct {
		contentType, body string
		protocols         []string
	}{
		"no body":                 {"", "", ndjson},
		"empty list":              {"application/json", `{"protocols":[]}`, ndjson},
		"not JSON":                {"text/plain", "hello", ndjson},
		"wrong shape":             {"application/json", `{"protocols":"HTTP_STREAM_SSE_V1"}`, ndjson},
		"large garbage":           {"application/octet-stream", strings.Repeat("x", 100_000), ndjson},
		"of any content type":     {"text/plain", `{"protocols":["HTTP_STREAM_SSE_V1"]}`, []string{"HTTP_STREAM_SSE_V1"}},
		"the known, in order":     {"", `{"protocols":["WEBSOCKET_V1","NEW","HTTP_STREAM_NDJSON_V1"]}`, []string{"WEBSOCKET_V1", "HTTP_STREAM_NDJSON_V1"}},
		"each once":               {"", `{"protocols":["HTTP_POLL_NDJSON_V1","HTTP_POLL_NDJSON_V1"]}`, []string{"HTTP_POLL_NDJSON_V1"}},
		"null means the standard": {"", `null`, ndjson},
	} {
		t.Run(name, func(t *testing.T) {
			header := http.Header{}
			if test.contentType != "" {
				header.Set("Content-Type", test.contentType)
			}
			r := s.do(http.MethodPost, "/create", header, strings.NewReader(test.body))
			var got map[string]any
			if err := json.Unmarshal([]byte(r.body), &got); err != nil || r.StatusCode != http.StatusOK {
				t.Fatalf("%d %s", r.StatusCode, r.body)
			}
			if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, []string{"agentName", "channelId", "consumerAddress", "producerAddress", "protocols"}) {
				t.Errorf("members %v", keys)
			}
			address := regexp.MustCompile(`^main\.[A-Za-z0-9_-]+$`)
			for _, member := range []string{"consumerAddress", "producerAddress"} {
				if !address.MatchString(got[member].(string)) {
					t.Errorf("%s %q", member, got[member])
				}
			}
			if got["agentName"] != "main" || got["channelId"] != got["consumerAddress"] || got["producerAddress"] == got["consumerAddress"] {
				t.Errorf("reply %v", got)
			}
			if protocols := fmt.Sprint(got["protocols"]); protocols != fmt.Sprint(test.protocols) {
				t.Errorf("protocols %v, want %v", protocols, test.protocols)
			}
		})
	}
	s.do(http.MethodPost, "/create", nil, strings.NewReader(`{"protocols":["NEW"]}`)).wantError(t, 400, "BAD_REQUEST")
}

func TestWriteKeepsTheTextOfTheBody(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	read := s.read("/read/" + c.ConsumerAddress)
	for body, want := range map[string]string{
		` {"b" : 1, "a":2, "b": 3.1400 } `:          `{"b":1,"a":2,"b":3.1400}`,
		`12345678901234567890.123456789012345678E7`: `12345678901234567890.123456789012345678E7`,
		`"a \u00e9 \/ é"`:                           `"a \u00e9 \/ é"`,
		"[\n1,\n2 ]":                                `[1,2]`,
		`null`:                                      `null`,
	} {
		r := s.post("/write/"+c.ProducerAddress+"/stream", body)
		if r.StatusCode != http.StatusCreated || r.body != `{"status":"OK"}` || r.Header.Get("Content-Type") != "application/json" {
			t.Fatalf("reply %d %s", r.StatusCode, r.body)
		}
		read.wants(want)
	}
}

func TestWriteTakesContentTypesOfJSON(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	for contentType, ok := range map[string]bool{
		"application/json":                  true,
		"application/json; charset=utf-8":   true,
		"Application/JSON":                  true,
		"application/cloudevents+json":      true,
		"text/json":                         false,
		"text/plain":                        false,
		"application/x-ndjson":              false,
		"application/x-www-form-urlencoded": false,
		"":                                  false,
	} {
		for _, path := range []string{"/write/" + c.ProducerAddress + "/s", "/write-batch", "/channelsExists"} {
			r := s.do(http.MethodPost, path, http.Header{"Content-Type": {contentType}}, strings.NewReader(`{"channels":[],"messages":[]}`))
			if ok && r.StatusCode >= 300 {
				t.Errorf("%s with %q: %d %s", path, contentType, r.StatusCode, r.body)
			} else if !ok {
				r.wantError(t, 415, "UNSUPPORTED_MEDIA_TYPE")
			}
		}
	}
}

func TestWriteDecodesTheStreamID(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	read := s.read("/read/" + c.ConsumerAddress)
	for segment, want := range map[string]string{
		"plain": "plain", "a%2Fb": "a/b", "a%20b+c": "a b+c", "%C3%A9": "é", "%22%5C": `"\`, "%252F": "%2F", "..%2f": "../", "a%3Fb%23": "a?b#",
	} {
		if r := s.post("/write/"+c.ProducerAddress+"/"+segment, "1"); r.StatusCode != http.StatusCreated {
			t.Fatalf("%s: %d %s", segment, r.StatusCode, r.body)
		}
		if m := read.next(); m.SID != want {
			t.Errorf("%s is read as %q, want %q", segment, m.SID, want)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	s := serve(t, "megaphone {\nmax_message_size 1KB\n}", "megaphone")
	c := s.create()
	path := "/write/" + c.ProducerAddress + "/stream"
	for name, test := range map[string]struct {
		path   string
		body   io.Reader
		status int
		code   string
	}{
		"malformed JSON":             {path, strings.NewReader(`{"a":`), 400, "BAD_REQUEST"},
		"two values":                 {path, strings.NewReader(`1 2`), 400, "BAD_REQUEST"},
		"no body":                    {path, nil, 400, "BAD_REQUEST"},
		"no UTF-8":                   {path, strings.NewReader("\"\xff\""), 400, "BAD_REQUEST"},
		"an empty stream id":         {"/write/" + c.ProducerAddress + "/", strings.NewReader("1"), 400, "BAD_REQUEST"},
		"a stream id without UTF-8":  {"/write/" + c.ProducerAddress + "/%FF", strings.NewReader("1"), 400, "BAD_REQUEST"},
		"the consumer's address":     {"/write/" + c.ConsumerAddress + "/stream", strings.NewReader("1"), 404, "NOT_FOUND"},
		"an unknown agent":           {"/write/other" + strings.TrimPrefix(c.ProducerAddress, "main") + "/stream", strings.NewReader("1"), 404, "NOT_FOUND"},
		"a malformed address":        {"/write/%2e%2e/stream", strings.NewReader("1"), 404, "NOT_FOUND"},
		"too large by its length":    {path, strings.NewReader(`"` + strings.Repeat("x", 1000) + `"`), 413, "PAYLOAD_TOO_LARGE"},
		"too large without a length": {path, io.MultiReader(strings.NewReader(`"` + strings.Repeat("x", 1000) + `"`)), 413, "PAYLOAD_TOO_LARGE"},
	} {
		t.Run(name, func(t *testing.T) {
			s.do(http.MethodPost, test.path, jsonHeader, test.body).wantError(t, test.status, test.code)
		})
	}
	if r := s.post(path, `"`+strings.Repeat("x", 998)+`"`); r.StatusCode != http.StatusCreated {
		t.Errorf("a body at the limit: %d %s", r.StatusCode, r.body)
	}
}

func TestAFullChannelHoldsAWriteAndThenRefusesIt(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 1\nhold 1s\n}", "megaphone")
	c := s.create()
	s.write(c, "1")
	start := time.Now()
	s.post("/write/"+c.ProducerAddress+"/s", "2").wantError(t, 503, "TIMEOUT")
	if held := time.Since(start); held < time.Second {
		t.Errorf("held for %v", held)
	}
	held := make(chan reply)
	go func() { held <- s.post("/write/"+c.ProducerAddress+"/s", "3") }()
	s.read("/read/"+c.ConsumerAddress).wants("1", "3")
	if r := <-held; r.StatusCode != http.StatusCreated {
		t.Errorf("held write: %d %s", r.StatusCode, r.body)
	}
}

func TestWriteBatch(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 2\nhold 20ms\n}", "megaphone")
	a, b, full := s.create(), s.create(), s.create()
	s.write(full, "0")
	r := s.post("/write-batch", fmt.Sprintf(
		`{"channels":[%q,"main.x",%q,%q,%q],"messages":[{"streamId":"s","body": {"n": 1} },{"streamId":"t","body":2},{"streamId":"t","body":3}]}`,
		a.ProducerAddress, b.ProducerAddress, full.ProducerAddress, a.ProducerAddress))
	if r.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	want := `{"failures":[`
	for _, f := range []struct {
		channel string
		index   int
		reason  string
	}{
		{a.ProducerAddress, 2, "TIMEOUT"},
		{"main.x", 0, "NOT_FOUND"},
		{"main.x", 1, "NOT_FOUND"},
		{"main.x", 2, "NOT_FOUND"},
		{b.ProducerAddress, 2, "TIMEOUT"},
		{full.ProducerAddress, 1, "TIMEOUT"},
		{full.ProducerAddress, 2, "SKIPPED"},
	} {
		want += fmt.Sprintf(`{"channel":%q,"index":%d,"reason":%q},`, f.channel, f.index, f.reason)
	}
	if want = strings.TrimSuffix(want, ",") + "]}"; r.body != want {
		t.Errorf("reply\n%s, want\n%s", r.body, want)
	}

	// One message is the same in all channels.
	one, other := s.read("/read/"+a.ConsumerAddress), s.read("/read/"+b.ConsumerAddress)
	for _, body := range []string{`{"n":1}`, `2`} {
		m := one.next()
		if n := other.next(); m.EID != n.EID || m.TS != n.TS || string(m.Body) != body || string(n.Body) != body {
			t.Errorf("messages %v and %v", m, n)
		}
	}
}

func TestWriteBatchReplies(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	for body, want := range map[string]string{
		`{"channelIds":["` + c.ProducerAddress + `"],"messages":[{"streamId":"s","body":null}]}`: `{"failures":[]}`,
		`{"channels":[],"messages":[{"streamId":"s","body":1}]}`:                                 `{"failures":[]}`,
		`{"channels":["` + c.ProducerAddress + `"],"messages":[],"other":1}`:                     `{"failures":[]}`,
		`{"messages":[]}`: "",
		`{"channels":["` + c.ProducerAddress + `"]}`:                                           "",
		`{"channels":"x","messages":[]}`:                                                       "",
		`{"channels":[],"channelIds":[],"messages":[]}`:                                        "",
		`{"channels":[],"messages":[{"streamId":"s"}]}`:                                        "",
		`{"channels":[],"messages":[{"body":1}]}`:                                              "",
		`{"channels":[],"messages":[{"streamId":"s","body":1}],"messages":[{"streamId":"s"}]}`: "",
		`{"channels":[],"messages":[{"streamId":"s"}],"messages":[{"streamId":"s","body":1}]}`: `{"failures":[]}`,
		`{"channels":[],"messages":[{"streamId":"","body":1}]}`:                                "",
		`{"channels":[],"messages":[{"streamId":"s","body":1,"key":""}]}`:                      "",
		`{"channels":[],"messages":[{"streamId":"s","body":1,"key":"a b"}]}`:                   "",
		`{"channels":[],"messages":[]} x`:                                                      "",
		"{\"channels\":[\"\xff\"],\"messages\":[]}":                                            "",
		`[]`: "", ``: "",
	} {
		r := s.post("/write-batch", body)
		if want == "" {
			r.wantError(t, 400, "BAD_REQUEST")
		} else if r.StatusCode != http.StatusCreated || r.body != want {
			t.Errorf("%s: %d %s", body, r.StatusCode, r.body)
		}
	}
}

func TestWriteBatchBoundsItsReply(t *testing.T) {
	s := serve(t, "", "megaphone")
	batch := func(channels, messages int) string {
		var b strings.Builder
		b.WriteString(`{"channels":[`)
		for i := range channels {
			fmt.Fprintf(&b, `%q,`, fmt.Sprint("x.", i))
		}
		return strings.TrimSuffix(b.String(), ",") + `],"messages":[` +
			strings.TrimSuffix(strings.Repeat(`{"streamId":"s","body":1},`, messages), ",") + `]}`
	}
	s.post("/write-batch", batch(1000, 263)).wantError(t, 400, "BAD_REQUEST")
	if r := s.post("/write-batch", batch(1000, 262)); r.StatusCode != http.StatusCreated {
		t.Errorf("a batch within the bound: %d", r.StatusCode)
	}
}

func TestChannelsExist(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	for _, list := range []string{"channels", "channelIds"} {
		r := s.post("/channelsExists", fmt.Sprintf(`{%q:[%q,%q,"main.x","",%q]}`, list, c.ProducerAddress, c.ConsumerAddress, c.ProducerAddress))
		var got struct{ Channels map[string]bool }
		if err := json.Unmarshal([]byte(r.body), &got); err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", r.StatusCode, r.body)
		}
		want := map[string]bool{c.ProducerAddress: true, c.ConsumerAddress: true, "main.x": false, "": false}
		if !maps.Equal(got.Channels, want) {
			t.Errorf("reply %s", r.body)
		}
	}
	s.post("/channelsExists", `{}`).wantError(t, 400, "BAD_REQUEST")
}

func TestLimitsAreAnsweredWithRetryAfter(t *testing.T) {
	s := serve(t, "megaphone {\nmax_channels 2\nmax_memory 1KB\nhold 0s\n}", "megaphone")
	c := s.create()
	s.create()
	r := s.do(http.MethodPost, "/create", nil, nil)
	r.wantError(t, 503, "LIMIT_REACHED")
	if r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	s.write(c, `"`+strings.Repeat("x", 1000)+`"`)
	r = s.post("/write/"+c.ProducerAddress+"/s", "1")
	r.wantError(t, 503, "LIMIT_REACHED")
	if r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

func TestAWriteWithAKeyMayBeRepeated(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	path := "/write/" + c.ProducerAddress + "/s"
	keyed := func(keys ...string) http.Header {
		return http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": keys}
	}
	for range 3 {
		if r := s.do(http.MethodPost, path, keyed("k1"), strings.NewReader("1")); r.StatusCode != http.StatusCreated {
			t.Fatalf("%d %s", r.StatusCode, r.body)
		}
		s.post("/write-batch", fmt.Sprintf(`{"channels":[%q],"messages":[{"streamId":"s","body":2,"key":"k2"}]}`, c.ProducerAddress))
	}
	s.write(c, "3")
	s.read("/read/"+c.ConsumerAddress).wants("1", "2", "3")
	for _, keys := range [][]string{{""}, {"a b"}, {"é"}, {strings.Repeat("k", 256)}, {"a", "b"}} {
		s.do(http.MethodPost, path, keyed(keys...), strings.NewReader("1")).wantError(t, 400, "BAD_REQUEST")
	}
}

func TestIngest(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 2\nhold 20ms\nmax_message_size 200\n}", "megaphone")
	a, full := s.create(), s.create()
	ndjson := http.Header{"Content-Type": {"application/x-ndjson; charset=utf-8"}}
	line := func(c channel, body string) string {
		return fmt.Sprintf(`{"channel":%q,"streamId":"s","body":%s}`, c.ProducerAddress, body)
	}
	lines := strings.Join([]string{
		line(a, "1"), line(full, "1"), " " + line(full, "2") + "\r", "", line(full, "3"), "{}", line(full, "4"), line(channel{ProducerAddress: "x"}, "5"), line(a, ` {"n": 2} `),
	}, "\n")
	r := s.do(http.MethodPost, "/write", ndjson, iotest.OneByteReader(strings.NewReader(lines)))
	want := fmt.Sprintf(`{"written":4,"failures":[{"channel":%[1]q,"index":4,"reason":"TIMEOUT"},{"channel":"","index":5,"reason":"BAD_REQUEST"},`+
		`{"channel":%[1]q,"index":6,"reason":"SKIPPED"},{"channel":"x","index":7,"reason":"NOT_FOUND"}],"failuresTotal":4}`, full.ProducerAddress)
	if r.StatusCode != http.StatusCreated || r.body != want {
		t.Errorf("%d\n%s, want\n%s", r.StatusCode, r.body, want)
	}
	s.read("/read/"+a.ConsumerAddress).wants("1", `{"n":2}`)

	r = s.do(http.MethodPost, "/write", ndjson, strings.NewReader(line(a, "3")+"\n"+line(a, `"`+strings.Repeat("x", 200)+`"`)+"\n"+line(a, "4")))
	if r.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(r.body, `"code":"PAYLOAD_TOO_LARGE"`) || !strings.Contains(r.body, `"written":1`) {
		t.Errorf("a line over the limit: %d %s", r.StatusCode, r.body)
	}
	s.post("/write", line(a, "1")).wantError(t, 415, "UNSUPPORTED_MEDIA_TYPE")

	// White space is what it is in JSON.
	r = s.do(http.MethodPost, "/write", ndjson, strings.NewReader(" \t\r\n\u00a0\n\u2003{}\n"))
	if !strings.Contains(r.body, `"index":1,`) || !strings.Contains(r.body, `"failuresTotal":2`) {
		t.Errorf("lines of other space: %d %s", r.StatusCode, r.body)
	}

	r = s.do(http.MethodPost, "/write", ndjson, bytes.NewReader(bytes.Repeat([]byte("{}\n"), 1500)))
	var result struct {
		Failures      []any
		FailuresTotal int
	}
	if err := json.Unmarshal([]byte(r.body), &result); err != nil || len(result.Failures) != 1000 || result.FailuresTotal != 1500 {
		t.Errorf("%d failures of %d are listed", len(result.Failures), result.FailuresTotal)
	}
}

// TestIngestWhoseProducerPauses for longer than Caddy waits for a request's body: it is told what was written. Lines that
// are held back have their time all the same.
func TestIngestWhoseProducerPauses(t *testing.T) {
	s := serve(t, "servers {\ntimeouts {\nread_body_idle 1s\n}\n}\nmegaphone {\nbuffer 1\nhold 1500ms\n}", "megaphone")
	c := s.create()
	body, lines := io.Pipe()
	defer lines.Close()
	go func() {
		for i := range 2 { // there is room for the first one
			_, _ = fmt.Fprintf(lines, `{"channel":%q,"streamId":"s","body":%d}`+"\n", c.ProducerAddress, i)
		}
	}()
	r := s.do(http.MethodPost, "/write", http.Header{"Content-Type": {"application/x-ndjson"}}, body)
	want := fmt.Sprintf(`"written":1,"failures":[{"channel":%q,"index":1,"reason":"TIMEOUT"}],"failuresTotal":1}`, c.ProducerAddress)
	if r.StatusCode != http.StatusBadRequest || !strings.HasPrefix(r.body, `{"code":"BAD_REQUEST",`) || !strings.HasSuffix(r.body, want) || !r.Close {
		t.Errorf("%d %q, want 400 with %s, and the connection closed: %v", r.StatusCode, r.body, want, r.Close)
	}
}
