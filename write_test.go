package megaphone_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone"
)

func TestWriteKeepsTheTextOfTheBody(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	read := s.read(c)
	for body, want := range map[string]string{
		` {"b" : 1, "a":2, "b": 3.1400 } `:          `{"b":1,"a":2,"b":3.1400}`,
		`12345678901234567890.123456789012345678E7`: `12345678901234567890.123456789012345678E7`,
		`"a \u00e9 \/ é"`:                           `"a \u00e9 \/ é"`,
		"[\n1,\n2 ]":                                `[1,2]`,
		`null`:                                      `null`,
	} {
		r := s.tryWrite(c, body)
		if r.StatusCode != http.StatusCreated || r.body != `{"status":"OK"}` || r.Header.Get("Content-Type") != "application/json" {
			t.Fatalf("reply %d %s", r.StatusCode, r.body)
		}
		read.wants(want)
	}
}

func TestWriteAcceptsContentTypesOfJSON(t *testing.T) {
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
		for _, path := range []string{c.writePath(), "/write-batch", "/channelsExists"} {
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
	read := s.read(c)
	for segment, want := range map[string]string{
		"plain": "plain", "a%2Fb": "a/b", "a%20b+c": "a b+c", "%C3%A9": "é", "%22%5C": `"\`, "%252F": "%2F", "..%2f": "../", "a%3Fb%23": "a?b#",
	} {
		if r := s.post("/write/"+c.ProducerAddress+"/"+segment, "1"); r.StatusCode != http.StatusCreated {
			t.Fatalf("%s: %d %s", segment, r.StatusCode, r.body)
		}
		if m := read.next(); m.SID != want {
			t.Errorf("%s: stream id %q, want %q", segment, m.SID, want)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	s := serve(t, "megaphone {\nmax_message_size 1KB\n}", "megaphone")
	c := s.create()
	path := c.writePath()
	for name, test := range map[string]struct {
		path   string
		body   io.Reader
		status int
		code   string
	}{
		"malformed JSON":             {path, strings.NewReader(`{"a":`), 400, "BAD_REQUEST"},
		"two values":                 {path, strings.NewReader(`1 2`), 400, "BAD_REQUEST"},
		"no body":                    {path, nil, 400, "BAD_REQUEST"},
		"not UTF-8":                  {path, strings.NewReader("\"\xff\""), 400, "BAD_REQUEST"},
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
	s := serve(t, "megaphone {\nbuffer 1\nhold 200ms\n}", "megaphone")
	c := s.create()
	s.write(c, "1")
	start := time.Now()
	s.tryWrite(c, "2").wantError(t, 503, "TIMEOUT")
	if held := time.Since(start); held < 200*time.Millisecond {
		t.Errorf("the write was held for %v, want at least 200ms", held)
	}
	s.reload("megaphone {\nbuffer 1\nhold 1m\n}", "megaphone")
	held := s.startWrite(c, "3")
	s.read(c).wants("1", "3")
	(<-held).wantCreated(t)
}

func TestAHeldWriteWhoseClientIsGoneLeavesNothingBehind(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 1\nhold 1m\n}", "megaphone")
	c := s.create()
	s.write(c, "1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+c.writePath(), strings.NewReader("2"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = jsonHeader
	gone := make(chan error, 1)
	go func() {
		response, err := s.client.Do(r)
		if err == nil {
			response.Body.Close()
		}
		gone <- err
	}()
	s.awaitHeldWrite()
	cancel()
	if <-gone == nil {
		t.Fatal("the write was not held")
	}
	s.eventually(func() bool { return megaphone.HeldBytes() == 0 })
	held := s.startWrite(c, "3")
	s.awaitHeldWrite()
	read := s.read(c)
	read.wants("1", "3")
	(<-held).wantCreated(t)
	s.write(c, "4")
	read.wants("4")
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

	// A message has the same event id and time in all channels.
	one, other := s.read(a), s.read(b)
	for _, body := range []string{`{"n":1}`, `2`} {
		m := one.next()
		if n := other.next(); m.EID != n.EID || m.TS != n.TS || string(m.Body) != body || string(n.Body) != body {
			t.Errorf("messages %v and %v, want the same with the body %s", m, n, body)
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

func TestWriteBatchLimitsItsReply(t *testing.T) {
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
		t.Errorf("a batch within the limit: %d", r.StatusCode)
	}
}

func TestAWriteWithAKeyCanBeRepeated(t *testing.T) {
	s := serve(t, "", "megaphone")
	c := s.create()
	path := c.writePath()
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
	s.read(c).wants("1", "2", "3")
	for _, keys := range [][]string{{""}, {"a b"}, {"é"}, {strings.Repeat("k", 256)}, {"a", "b"}} {
		s.do(http.MethodPost, path, keyed(keys...), strings.NewReader("1")).wantError(t, 400, "BAD_REQUEST")
	}
}
