package megaphone_test

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// encoded returns text in a content coding.
func encoded(t *testing.T, coding, text string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if coding == "zstd" {
		var err error
		if w, err = zstd.NewWriter(&b); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = io.WriteString(w, text)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// postEncoded sends a POST request whose body has a content coding.
func (s *server) postEncoded(path, coding, contentType, text string) reply {
	s.Helper()
	return s.do(http.MethodPost, path, http.Header{"Content-Type": {contentType}, "Content-Encoding": {coding}}, encoded(s.T, coding, text))
}

// TestEveryEndpointDecodesBodies: whatever an endpoint reads may be compressed. The limit is on what it becomes.
func TestEveryEndpointDecodesBodies(t *testing.T) {
	s := serve(t, "megaphone {\nmax_message_size 1KB\n}", "megaphone")
	bomb := strings.Repeat(" ", 100_000)
	for _, coding := range []string{"gzip", "zstd"} {
		c := s.create()
		s.postEncoded(c.writePath(), coding, "application/json", `{"a": 1}`).wantCreated(t)
		batch := `{"channels":["` + c.ProducerAddress + `"],"messages":[{"streamId":"s","body":2}]}`
		if r := s.postEncoded("/write-batch", coding, "application/json", batch); r.body != `{"failures":[]}` {
			t.Errorf("%s batch: %d %s", coding, r.StatusCode, r.body)
		}
		r := s.postEncoded("/write", coding, "application/x-ndjson", ingestLine(c.ProducerAddress, "3")+"\n"+ingestLine(c.ProducerAddress, "4"))
		if !strings.HasPrefix(r.body, `{"written":2,`) {
			t.Errorf("%s ingest: %d %s", coding, r.StatusCode, r.body)
		}
		s.read(c).wants(`{"a":1}`, "2", "3", "4")
		r = s.postEncoded("/channelsExists", coding, "application/json", `{"channels":["`+c.ConsumerAddress+`"]}`)
		if !strings.Contains(r.body, ":true") {
			t.Errorf("%s channelsExists: %d %s", coding, r.StatusCode, r.body)
		}
		r = s.postEncoded("/create", coding, "application/json", `{"protocols":["WEBSOCKET_V1"]}`)
		if !strings.Contains(r.body, `"protocols":["WEBSOCKET_V1"]`) {
			t.Errorf("%s create: %d %s", coding, r.StatusCode, r.body)
		}
		for _, path := range []string{c.writePath(), "/write-batch", "/channelsExists"} {
			s.postEncoded(path, coding, "application/json", bomb).wantError(t, 413, "PAYLOAD_TOO_LARGE")
			s.do(http.MethodPost, path, http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {coding}},
				strings.NewReader(`{}`)).wantError(t, 400, "BAD_REQUEST")
		}
		for _, bomb := range []string{strings.Repeat("x", 100_000), strings.Repeat("\n", 2_000_000)} {
			r = s.postEncoded("/write", coding, "application/x-ndjson", ingestLine(c.ProducerAddress, "5")+"\n"+bomb)
			if r.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(r.body, `"written":1`) {
				t.Errorf("%s ingest of a bomb: %d %s", coding, r.StatusCode, r.body)
			}
		}
	}
	for path, contentType := range map[string]string{
		s.create().writePath(): "application/json", "/write-batch": "application/json", "/channelsExists": "application/json",
		"/write": "application/x-ndjson",
	} {
		r := s.do(http.MethodPost, path, http.Header{"Content-Type": {contentType}, "Content-Encoding": {"br"}}, strings.NewReader("1"))
		r.wantError(t, 415, "UNSUPPORTED_MEDIA_TYPE")
		if got := r.Header.Get("Accept-Encoding"); got != "gzip, zstd" {
			t.Errorf("%s: Accept-Encoding: %q", path, got)
		}
	}
	// A body that nobody can read asks for no protocols (protocol.md 1.3).
	r := s.do(http.MethodPost, "/create", http.Header{"Content-Encoding": {"br"}}, strings.NewReader("1"))
	if r.StatusCode != http.StatusOK {
		t.Errorf("create: %d %s", r.StatusCode, r.body)
	}
}

// TestEncodedWritesAreNotServedDirectly: a connection with encoded writes stays with net/http.
func TestEncodedWritesAreNotServedDirectly(t *testing.T) {
	s := serve(t, "", "megaphone")
	c, client := s.create(), s.rawClient()
	for i := range 3 * enough {
		body, err := io.ReadAll(encoded(t, "gzip", strconv.Itoa(i)))
		if err != nil {
			t.Fatal(err)
		}
		client.send(writeRequest(c.ProducerAddress, string(body), "Content-Encoding: gzip"))
		client.wants(http.StatusCreated)
		if s.isDirect() {
			t.Fatal("writes are served directly")
		}
	}
	s.read(c).wants(numbered(0, 3*enough)...)
}
