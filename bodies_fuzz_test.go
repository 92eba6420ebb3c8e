package megaphone_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-megaphone/megaphone"
)

// provision returns a handler whose app has these settings, without a server around it.
func provision(tb testing.TB, settings string) *megaphone.Handler {
	tb.Helper()
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true},
		AppsRaw: caddy.ModuleMap{"megaphone": json.RawMessage(settings)},
	})
	if err != nil {
		tb.Fatal(err)
	}
	app, err := ctx.App("megaphone")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := app.(*megaphone.App).Cleanup(); err != nil {
			tb.Error(err)
		}
	})
	handler, err := ctx.LoadModuleByID("http.handlers.megaphone", nil)
	if err != nil {
		tb.Fatal(err)
	}
	return handler.(*megaphone.Handler)
}

// serveRequest passes a request to a handler, which must serve it.
func serveRequest(tb testing.TB, h caddyhttp.MiddlewareHandler, method, path, contentType string, body []byte) *httptest.ResponseRecorder {
	tb.Helper()
	r := httptest.NewRequestWithContext(tb.Context(), method, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		tb.Errorf("%s went to the next handler", path)
		return nil
	}))
	if err != nil {
		tb.Errorf("%s: %v", path, err)
	}
	return w
}

// FuzzBodies checks that any body of a request gets a reply in JSON with one of the codes in protocol.md 1.2, and that
// what was accepted is read as whole lines. In a body, PRODUCER stands for the producer address of a channel.
func FuzzBodies(f *testing.F) {
	const jsonType, linesType = "application/json", "application/x-ndjson"
	paths := []string{"/write/PRODUCER/s", "/write-batch", "/channelsExists", "/create", "/write"}
	for _, seed := range []struct {
		path              int
		contentType, body string
	}{
		{0, jsonType, `{"a": [1, 2.50, "\u00e9"]}`},
		{0, jsonType, `{"a":`},
		{0, "application/cloudevents+json; charset=utf-8", "\"\xff\""},
		{0, "text/plain", `1`},
		{1, jsonType, `{"channels":["PRODUCER","PRODUCER","x"],"messages":[{"streamId":"s","body":{"n": 1}},{"streamId":"t","body":null,"key":"k","merge":"append"}]}`},
		{1, jsonType, `{"channelIds":[],"channels":[],"messages":[]}`},
		{1, jsonType, `{"channels":["PRODUCER"],"messages":[{"streamId":"","body":1}]}`},
		{1, jsonType, `[`},
		{2, jsonType, `{"channels":["PRODUCER","","main.x"]}`},
		{2, jsonType, `{"channels":null}`},
		{3, jsonType, `{"protocols":["HTTP_STREAM_NDJSON_V1"]}`},
		{3, "", `{"protocols":["X"]}`},
		{3, "text/plain", `hello`},
		{3, jsonType, `{"topics":[],"ttl":"10m"}`},
		{3, jsonType, `{"topics":["a",{"topic":"b","last":"all"}]}`},
		{3, jsonType, `{"topics":{},"ttl":10}`},
		{4, linesType, `{"channel":"PRODUCER","streamId":"s","body":1}` + "\n\n" + `{"channel":"x","streamId":"s","body":1}` + "\r\n{}"},
		{4, linesType, strings.Repeat(`{"channel":"PRODUCER","streamId":"s","body":1}`+"\n", 150)},
		{4, linesType, `{"topic":"t","streamId":"s","body":1}` + "\n" + `{"topic":"","streamId":"s","body":1}`},
		{4, linesType + "; a=b", strings.Repeat("x", 1100)},
		{4, jsonType, `{}`},
	} {
		f.Add(seed.path, seed.contentType, []byte(seed.body))
	}
	h := provision(f, `{"hold":0,"ttl":"10s","max_message_size":1000}`)
	f.Fuzz(func(t *testing.T, path int, contentType string, body []byte) {
		var c channel
		if err := json.Unmarshal(serveRequest(t, h, http.MethodPost, "/create", "", nil).Body.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		kind := uint(path) % uint(len(paths))
		address := strings.NewReplacer("PRODUCER", c.ProducerAddress)
		sent := []byte(address.Replace(string(body)))
		w := serveRequest(t, h, http.MethodPost, address.Replace(paths[kind]), contentType, sent)

		var reply struct{ Code, Message string }
		if err := json.Unmarshal(w.Body.Bytes(), &reply); err != nil || w.Header().Get("Content-Type") != jsonType {
			t.Fatalf("the reply is not JSON: %q", w.Body)
		}
		accepted := w.Code == http.StatusOK || w.Code == http.StatusCreated
		switch known := map[int]string{
			400: "BAD_REQUEST", 403: "FORBIDDEN", 413: "PAYLOAD_TOO_LARGE", 415: "UNSUPPORTED_MEDIA_TYPE", 503: "LIMIT_REACHED",
		}[w.Code]; {
		case accepted && reply.Code == "":
		case known == "" || reply.Code != known || reply.Message == "":
			t.Errorf("%s: %d %s", paths[kind], w.Code, w.Body)
		}
		if good := json.Valid(sent) && utf8.Valid(sent) && len(sent) <= 1000; kind == 0 && contentType == jsonType && good != accepted {
			t.Errorf("write of %q: %d %s", sent, w.Code, w.Body)
		}

		text := serveRequest(t, h, http.MethodGet, c.readPath()+"?poll=0", "", nil).Body.String()
		if kind == 0 && accepted != (text != "") {
			t.Errorf("write: %d, but a poll returns %q", w.Code, text)
		}
		for line := range strings.Lines(text) {
			var m message
			if err := json.Unmarshal([]byte(line), &m); err != nil || m.SID == "" || m.EID == "" || m.Body == nil || !strings.HasSuffix(line, "\n") {
				t.Errorf("line %q: %v", line, err)
			}
		}
	})
}
