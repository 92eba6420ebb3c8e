package integration

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestExampleServesWhatItSays runs example.Caddyfile as it is, but for its ports and where the admin endpoint listens.
func TestExampleServesWhatItSays(t *testing.T) {
	example, err := os.ReadFile("../example.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	s := testserver.New(t)
	text := strings.Replace(string(example), "{\n", fmt.Sprintf("{\n\tadmin unix/%s\n", s.Socket("admin")), 1)
	ports := map[string]string{}
	var replacements []string
	for _, port := range []string{"8443", "8080", "8081", "3000"} {
		if !strings.Contains(text, port) {
			t.Fatalf("the example has no port %s", port)
		}
		ports[port] = strconv.Itoa(testserver.FreePort(t))
		replacements = append(replacements, port, ports[port])
	}
	// All at once: a port may have another one's digits in it.
	s.StartFile(strings.NewReplacer(replacements...).Replace(text))
	port, err := strconv.Atoi(ports["8443"])
	if err != nil {
		t.Fatal(err)
	}
	awaitCertificate(t, s, "localhost", port)

	public := &client{tb: t, base: "https://localhost:" + ports["8443"], http: &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: s.Roots()},
		ForceAttemptHTTP2: true,
	}}}
	t.Cleanup(public.http.CloseIdleConnections)
	private := loadClient(t, 0, false)
	private.base = "http://127.0.0.1:" + ports["3000"]
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	get := func(path string) (*http.Response, error) { return public.do(ctx, http.MethodGet, path, nil, "") }
	// The site is the backend's …
	for _, path := range []string{"/", "/any/other/path", "/read"} {
		response, err := get(path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || response.ProtoMajor != 2 || string(body) != "Hello from the backend.\n" {
			t.Errorf("%s: %s %s %q %v", path, response.Proto, response.Status, body, err)
		}
	}
	// … and so is whatever only backends may do: nobody outside creates a channel, or writes.
	c := private.create()
	for _, path := range []string{"/create", "/write/" + c.ProducerAddress + "/s", "/write-batch", "/channelsExists"} {
		if status, text, err := public.post(path, "1"); err != nil || status != http.StatusOK || text != "Hello from the backend.\n" {
			t.Errorf("%s: %d %s %v", path, status, text, err)
		}
	}

	// Beside it, what the backend writes is read through TLS.
	response, err := get("/read/" + c.ConsumerAddress)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	wants := func(stream, body string) {
		t.Helper()
		line, err := lines.ReadBytes('\n')
		var m message
		if err != nil || json.Unmarshal(line, &m) != nil || m.SID != stream || string(m.Body) != body {
			t.Errorf("%q, %v, want %s on %s", line, err, body, stream)
		}
	}
	private.write(c, `{"text":"hello"}`)
	wants("s", `{"text":"hello"}`)

	other := private.create()
	status, reply, err := private.post("/write-batch", fmt.Sprintf(
		`{"channels":[%q,%q,"main.unknown"],"messages":[{"streamId":"a","body":1},{"streamId":"b","body":2}]}`, c.ProducerAddress, other.ProducerAddress))
	if err != nil || status != http.StatusCreated || reply != `{"failures":[{"channel":"main.unknown","index":0,"reason":"NOT_FOUND"},{"channel":"main.unknown","index":1,"reason":"NOT_FOUND"}]}` {
		t.Errorf("batch: %d %s %v", status, reply, err)
	}
	wants("a", "1")
	wants("b", "2")

	status, reply, err = private.post("/channelsExists", fmt.Sprintf(`{"channels":[%q,"main.unknown"]}`, c.ConsumerAddress))
	var exist struct{ Channels map[string]bool }
	if err != nil || status != http.StatusOK || json.Unmarshal([]byte(reply), &exist) != nil ||
		!maps.Equal(exist.Channels, map[string]bool{c.ConsumerAddress: true, "main.unknown": false}) {
		t.Errorf("exists: %d %s %v", status, reply, err)
	}

	// A second reader is refused, by the site that reads only as by the other.
	for _, site := range []*client{public, private} {
		response, err := site.do(ctx, http.MethodGet, "/read/"+c.ConsumerAddress+"?poll=0", nil, "")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusConflict {
			t.Errorf("a second reader: %s", response.Status)
		}
	}
}
