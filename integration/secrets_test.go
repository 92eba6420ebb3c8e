package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestNoLogHasAnAddress runs the configuration of docs/logging.md with upstreams and handlers that fail. Afterwards, no log
// may have an address, however it was encoded.
func TestNoLogHasAnAddress(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/logging.md")
	if err != nil {
		t.Fatal(err)
	}
	s := testserver.New(t)
	breaks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half a reply")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(breaks.Close)
	nobody := fmt.Sprint("127.0.0.1:", testserver.FreePort(t))
	directives := fmt.Sprintf(`bind 127.0.0.1
	megaphone
	reverse_proxy /dead/* %[1]s
	reverse_proxy /breaks/* %[2]s
	handle_path /asked/* {
		forward_auth %[1]s {
			uri /may-read
		}
		megaphone
	}
	error /fails/* "it fails" 500
	redir /moved/* https://example.com{uri}
	file_server /files/* {
		root %[3]s
	}
`, nobody, breaks.Listener.Addr(), s.Dir)
	var sites []string
	site := func(log string) string {
		sites = append(sites, fmt.Sprint("http://127.0.0.1:", testserver.FreePort(t)))
		return sites[len(sites)-1] + " {\n" + log + directives
	}
	options := "\n{\nadmin unix/" + s.Socket("admin") + "\npersist_config off\nmegaphone {\nhold 0s\n}\n"
	config := blocks(string(text), "caddyfile")[0]
	for old, replacement := range map[string]string{
		"\n{\n":               options,
		"app.example.com {\n": site(""),
		"/var/log/caddy/":     s.Dir + "/",
	} {
		if !strings.Contains(config, old) {
			t.Fatalf("docs/logging.md has no %q", old)
		}
		config = strings.Replace(config, old, replacement, 1)
	}
	config = strings.ReplaceAll(config, "\tmegaphone read\n\treverse_proxy 127.0.0.1:8080\n", "")
	config += site("log\n") + "}\n" + // its access log is Caddy's own log
		site("log\n") + "handle_errors {\nreverse_proxy " + nobody + "\n}\n}\n" // fails to handle errors
	s.StartFile(config)

	var needles []string
	for _, site := range sites {
		c := &client{tb: t, http: http.DefaultClient, base: site}
		channel := c.create()
		for _, address := range []string{channel.ConsumerAddress, channel.ProducerAddress} {
			needles = append(needles, address[len("main.")+4:])
			for _, spelling := range spellings(address) {
				c.sendEverywhere(spelling)
			}
		}
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/megaphone/channels/main."+needles[0]+"0000", nil)
	if err != nil {
		t.Fatal(err)
	}
	if response, err := s.Admin().Do(request); err != nil || response.Body.Close() != nil {
		t.Fatal(err)
	}
	s.Stop()

	logs := s.Log()
	access, err := os.ReadFile(filepath.Join(s.Dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"http.log.error"`, `"http.log.error.log0"`, `"http.log.access"`, `"error handling handler error"`, "connection refused", "it fails"} {
		if !strings.Contains(logs, part) {
			t.Errorf("the log has no %s, so the test shows too little", part)
		}
	}
	if n := strings.Count(string(access), `"logger":"http.log.access.log0"`); n < 50 {
		t.Errorf("the access log has %d lines, so the test shows too little", n)
	}
	for line := range strings.Lines(logs + string(access)) {
		plain := decodePercent(decodePercent(line))
		for _, needle := range needles {
			if strings.Contains(plain, needle) {
				t.Errorf("an address is in the line\n%s", line)
			}
		}
	}
}

// sendEverywhere sends requests that name an address, in ways of which many fail.
func (c *client) sendEverywhere(address string) {
	c.tb.Helper()
	for _, path := range []string{
		"/read/" + address + "?poll=0", "/write/" + address + "/s", "/write/" + address, "/dead/" + address, "/breaks/" + address + "/s",
		"/asked/read/" + address + "?poll=0", "/fails/" + address, "/moved/" + address, "/files/" + address, "/dead/?channel=" + address + "&x=1",
	} {
		request, err := http.NewRequestWithContext(c.tb.Context(), http.MethodGet, c.base+path, nil)
		if err != nil {
			c.tb.Fatal(err)
		}
		if strings.HasPrefix(path, "/write/") {
			request.Method = http.MethodPost
		}
		for _, name := range []string{"Referer", "X-Forwarded-Uri", "X-Original-Uri", "Sec-WebSocket-Protocol"} {
			request.Header.Set(name, "https://app.example.com/read/"+address)
		}
		response, err := http.DefaultTransport.RoundTrip(request) // without following redirects
		if err != nil {
			c.tb.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
}

// spellings returns an address in the spellings that mean the same in a path.
func spellings(address string) []string {
	var encoded strings.Builder
	for i := range len(address) {
		fmt.Fprintf(&encoded, "%%%02X", address[i])
	}
	return []string{
		address, strings.Replace(address, ".", "%2e", 1), address[:len(address)-3] + encoded.String()[3*(len(address)-3):],
		encoded.String(), strings.ToLower(encoded.String()), url.QueryEscape("/read/" + address),
	}
}

// decodePercent decodes what is percent-encoded in a text.
func decodePercent(text string) string {
	return regexp.MustCompile(`%[0-9A-Fa-f]{2}`).ReplaceAllStringFunc(text, func(code string) string {
		decoded, err := url.PathUnescape(code)
		if err != nil {
			return code
		}
		return decoded
	})
}
