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

// examplePorts maps each port of example.Caddyfile to the free port that a test uses instead.
type examplePorts map[string]int

// replacer replaces all ports in a text at once, because a free port may contain the digits of another port.
func (p examplePorts) replacer() *strings.Replacer {
	var pairs []string
	for port, free := range p {
		pairs = append(pairs, port, strconv.Itoa(free))
	}
	return strings.NewReplacer(pairs...)
}

// startExample runs example.Caddyfile. It only changes the ports and the address of the admin endpoint. It returns when
// the public site has its certificate.
func startExample(t *testing.T) (*testserver.Server, examplePorts) {
	t.Helper()
	example, err := os.ReadFile("../example.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	ports := examplePorts{}
	for _, port := range []string{"8443", "8080", "8081", "3000"} {
		if !strings.Contains(string(example), port) {
			t.Fatalf("the example has no port %s", port)
		}
		ports[port] = testserver.FreePort(t)
	}
	s := testserver.New(t)
	text := ports.replacer().Replace(string(example))
	s.StartFile(strings.Replace(text, "{\n", fmt.Sprintf("{\n\tadmin unix/%s\n", s.Socket("admin")), 1))
	awaitCertificate(t, s, "localhost", ports["8443"])
	return s, ports
}

func TestExampleServesWhatItSays(t *testing.T) {
	t.Parallel()
	s, ports := startExample(t)
	public := &client{tb: t, base: fmt.Sprintf("https://localhost:%d", ports["8443"]), http: &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: s.Roots()},
		ForceAttemptHTTP2: true,
	}}}
	t.Cleanup(public.http.CloseIdleConnections)
	private := loadClient(t, ports["3000"], false)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	get := func(path string) (*http.Response, error) { return public.do(ctx, http.MethodGet, path, nil, "") }
	// The backend serves the site …
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
	// … and also the paths that only backends may use: nobody outside can create a channel or write.
	c := private.create()
	for _, path := range []string{"/create", "/write/" + c.ProducerAddress + "/s", "/write-batch", "/channelsExists"} {
		if status, text, err := public.post(path, "1"); err != nil || status != http.StatusOK || text != "Hello from the backend.\n" {
			t.Errorf("%s: %d %s %v", path, status, text, err)
		}
	}

	// The same site serves reads through TLS.
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

	// Both sites refuse a second reader.
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
