package megaphone_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

func TestIngest(t *testing.T) {
	// All lines must come within the hold time of the first line that is held back.
	s := serve(t, "megaphone {\nbuffer 2\nhold 500ms\nmax_message_size 200\n}", "megaphone")
	a, full := s.create(), s.create()
	line := func(c channel, body string) string { return ingestLine(c.ProducerAddress, body) }
	lines := strings.Join([]string{
		line(a, "1"), line(full, "1"), " " + line(full, "2") + "\r", "", line(full, "3"), "{}", line(full, "4"), ingestLine("x", "5"), line(a, ` {"n": 2} `),
	}, "\n")
	withCharset := http.Header{"Content-Type": {"application/x-ndjson; charset=utf-8"}}
	r := s.do(http.MethodPost, "/write", withCharset, iotest.OneByteReader(strings.NewReader(lines)))
	want := fmt.Sprintf(`{"written":4,"failures":[{"channel":%[1]q,"index":4,"reason":"TIMEOUT"},{"channel":"","index":5,"reason":"BAD_REQUEST"},`+
		`{"channel":%[1]q,"index":6,"reason":"SKIPPED"},{"channel":"x","index":7,"reason":"NOT_FOUND"}],"failuresTotal":4}`, full.ProducerAddress)
	if r.StatusCode != http.StatusCreated || r.body != want {
		t.Errorf("%d\n%s, want\n%s", r.StatusCode, r.body, want)
	}
	s.read(a).wants("1", `{"n":2}`)

	r = s.ingest(strings.NewReader(line(a, "3") + "\n" + line(a, `"`+strings.Repeat("x", 200)+`"`) + "\n" + line(a, "4")))
	if r.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(r.body, `"code":"PAYLOAD_TOO_LARGE"`) || !strings.Contains(r.body, `"written":1`) {
		t.Errorf("a line over the limit: %d %s", r.StatusCode, r.body)
	}
	s.post("/write", line(a, "1")).wantError(t, 415, "UNSUPPORTED_MEDIA_TYPE")

	// Lines of white space are skipped. Only the white space of JSON counts, not other spaces of Unicode.
	r = s.ingest(strings.NewReader(" \t\r\n\u00a0\n\u2003{}\n"))
	if !strings.Contains(r.body, `"index":1,`) || !strings.Contains(r.body, `"failuresTotal":2`) {
		t.Errorf("lines with other spaces: %d %s", r.StatusCode, r.body)
	}

	r = s.ingest(bytes.NewReader(bytes.Repeat([]byte("{}\n"), 1500)))
	var result struct {
		Failures      []any
		FailuresTotal int
	}
	if err := json.Unmarshal([]byte(r.body), &result); err != nil || len(result.Failures) != 1000 || result.FailuresTotal != 1500 {
		t.Errorf("%d of %d failures are listed, want 1000 of 1500", len(result.Failures), result.FailuresTotal)
	}
}

// TestTheReplyToAnIngestIsBounded: what lines give as channels is cut in the reply, and not kept until then.
func TestTheReplyToAnIngestIsBounded(t *testing.T) {
	s := serve(t, "", "megaphone")
	name := "main." + strings.Repeat("é", 100_000)
	lines := strings.Repeat(ingestLine(name, "1")+"\n"+`{"channel":"`+name+`","body":1}`+"\n", 10)
	r := s.ingest(strings.NewReader(lines))
	failure := `{"channel":"main.` + strings.Repeat("é", 125) + `","index":%d,"reason":"%s"},`
	want := `{"written":0,"failures":[` + fmt.Sprintf(failure, 0, "NOT_FOUND") + fmt.Sprintf(failure, 1, "BAD_REQUEST")
	if r.StatusCode != http.StatusCreated || !strings.HasPrefix(r.body, want) || !strings.HasSuffix(r.body, `"failuresTotal":20}`) || len(r.body) > 20_000 {
		t.Errorf("%d %d bytes %.700s, want %s", r.StatusCode, len(r.body), r.body, want)
	}
}

// TestRefusedIngestsAreLoggedAndCounted checks that an ingest that was refused is logged and counted like other refused
// requests. Unlike theirs, its reply also says what was written.
func TestRefusedIngestsAreLoggedAndCounted(t *testing.T) {
	file := newAccessLog(t)
	s := serve(t, "megaphone {\nmax_message_size 100\n}", file.setting()+"}\nmegaphone")
	s.ingest(strings.NewReader(strings.Repeat("x", 101)))
	file.wants(map[string]any{"endpoint": "ingest", "messages": 0, "error": "PAYLOAD_TOO_LARGE"})
	s.wantMetrics(map[string]float64{`requests_refused_total{code="PAYLOAD_TOO_LARGE",endpoint="ingest"}`: 1})
}
