package megaphone_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

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
