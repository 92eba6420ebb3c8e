package megaphone_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestTheLogSaysOnceWhetherRequestsBypassNetHTTP checks the lines about a site's writes and reads, each of which comes once
// for each reason, however many connections there are.
func TestTheLogSaysOnceWhetherRequestsBypassNetHTTP(t *testing.T) {
	const bypass = "bypass net/http from now on where nothing is in the way"
	for name, test := range map[string]struct {
		settings, site string
		header         string // of each write; %d becomes a number
		h2             bool   // over HTTP/2
		writes, reads  string // in the lines, or their absence
	}{
		"nothing is in the way": {site: "megaphone", writes: bypass, reads: bypass},
		"an access log":         {site: "log {\noutput discard\n}\nmegaphone", writes: "*caddyhttp.responseRecorder", reads: "*caddyhttp.responseRecorder"},
		"a limit on responses":  {settings: "servers {\ntimeouts {\nwrite 1m\n}\n}", site: "megaphone", writes: "timeouts { write }", reads: "timeouts { write }"},
		"a limit on requests":   {settings: "servers {\ntimeouts {\nread_body 1m\n}\n}", site: "megaphone", writes: "read_body", reads: bypass},
		"another handler":       {site: "header X-A b\nmegaphone", writes: "another handler comes before", reads: bypass},
		"changing headers":      {site: "megaphone", header: "Traceparent: %d", writes: `"Traceparent"`, reads: bypass},
		"chunks":                {site: "megaphone", header: "Transfer-Encoding: chunked", writes: "no Content-Length", reads: bypass},
		"HTTP/2":                {site: "megaphone", settings: "servers {\nprotocols h1 h2c\n}", h2: true, writes: "HTTP/2.0", reads: "HTTP/2.0"},
		"both are off":          {site: "megaphone {\ndirect_writes off\ndetached_reads off\n}"},
		"with the listener wrapper": {
			settings: "servers {\nlistener_wrappers {\nmegaphone\n}\n}", site: "megaphone",
			writes: `"connections_survive_reload":true`, reads: `"connections_survive_reload":true`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			s := serve(t, "log ours {\noutput file "+path+" {\nroll_disabled\n}\ninclude http.handlers.megaphone\n}\n"+
				"megaphone {\nbuffer 1000\n}\n"+test.settings, test.site)
			if test.h2 {
				var protocols http.Protocols
				protocols.SetUnencryptedHTTP2(true)
				transport := s.client.Transport.(*http.Transport)
				s.client.Transport = &http.Transport{DialContext: transport.DialContext, Protocols: &protocols}
			}
			for range 2 {
				c, client := s.create(), s.rawClient()
				for i := range 3 * enough * 3 {
					header := "X-Same: 1"
					if test.header != "" {
						header = strings.ReplaceAll(test.header, "%d", strconv.Itoa(i))
					}
					request := writeRequest(c.ProducerAddress, "1", header)
					if name == "chunks" {
						request = strings.Replace(request, "Content-Length: 1\r\n\r\n1", "\r\n1\r\n1\r\n0\r\n\r\n", 1)
					}
					client.send(request)
					client.wants(http.StatusCreated)
				}
				if test.h2 {
					client.Close()
					s.write(c, "1")
				}
				read := s.read(c)
				read.wants("1")
				read.close()
				s.awaitNoReader(c) // so that the server need not wait for it in the end
			}
			for what, want := range map[string]string{"writes ": test.writes, "reads ": test.reads} {
				line := s.line(path, what, want)
				if want != "" && (!strings.Contains(line, want) || !strings.Contains(line, `"host":"localhost"`)) {
					t.Errorf("the log says %q, want %s", line, want)
				}
			}
		})
	}
}

// TestTheLogSaysWhyAnOldReadStaysWithNetHTTP: nginx speaks HTTP/1.0 to its backends unless it is told otherwise.
func TestTheLogSaysWhyAnOldReadStaysWithNetHTTP(t *testing.T) {
	for request, want := range map[string]string{
		"GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n":                       "HTTP/1.0",
		"GET %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx": "a body",
	} {
		path := filepath.Join(t.TempDir(), "log")
		s := serve(t, "log ours {\noutput file "+path+" {\nroll_disabled\n}\ninclude http.handlers.megaphone\n}", "megaphone")
		client := s.rawClient()
		client.send(fmt.Sprintf(request, s.create().readPath()))
		if line := s.line(path, "reads ", "reason"); !strings.Contains(line, want) {
			t.Errorf("the log says %q, want %s", line, want)
		}
	}
}

// line waits for the line about a kind of requests with a text, and returns it. Without a text, there must be no line about
// them.
func (s *server) line(path, what, text string) (line string) {
	s.Helper()
	s.eventually(func() bool {
		content, _ := os.ReadFile(path)
		line = ""
		n := 0
		for l := range strings.SplitSeq(string(content), "\n") {
			var entry struct{ Level, Msg string }
			if json.Unmarshal([]byte(l), &entry) != nil || !strings.HasPrefix(entry.Msg, what) {
				continue
			}
			if entry.Level != "info" || text == "" {
				s.Errorf("the log has the line %s", l)
			}
			if strings.Contains(l, text) {
				line = l
				n++
			}
		}
		if n > 1 {
			s.Fatalf("the log says %d times: %s", n, line)
		}
		return text == "" || n == 1
	})
	return line
}
