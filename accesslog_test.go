package megaphone_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// An accessLog is a file that a site's access log goes to.
type accessLog struct {
	*testing.T

	path string
	seen int
}

// entry waits for the next line, and returns it with its object megaphone.
func (l *accessLog) entry() (line string, object map[string]any) {
	l.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		text, _ := os.ReadFile(l.path)
		lines := strings.SplitAfter(string(text), "\n")
		if len(lines)-1 <= l.seen {
			continue
		}
		line = lines[l.seen]
		l.seen++
		var entry struct{ Megaphone map[string]any }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			l.Fatalf("%q: %v", line, err)
		}
		return line, entry.Megaphone
	}
	l.Fatal("there is no line in the access log")
	return "", nil
}

// wants compares the next line's object, which has channel too if the request has an address.
func (l *accessLog) wants(want map[string]any) {
	l.Helper()
	line, got := l.entry()
	delete(got, "channel")
	if fmt.Sprint(got) != fmt.Sprint(want) {
		l.Errorf("logged %v, want %v in\n%s", got, want, line)
	}
}

// docBlock returns the block of a page that has a certain text.
func docBlock(t *testing.T, page, text string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("docs", page))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?ms)^```caddyfile\n(.*?)^```$").FindAllSubmatch(content, -1) {
		if strings.Contains(string(block[1]), text) {
			return string(block[1])
		}
	}
	t.Fatalf("docs/%s has no block with %s", page, text)
	return ""
}

// TestAccessLog: requests are logged with what Megaphone knows of them, and without addresses when the filter is
// used that docs/logging.md shows.
func TestAccessLog(t *testing.T) {
	file := &accessLog{T: t, path: filepath.Join(t.TempDir(), "access.log")}
	filter := strings.Replace(docBlock(t, "logging.md", "format filter"), "log {", "log {\noutput file "+file.path+" {\nroll_disabled\n}", 1)
	s := serve(t, "megaphone {\nread_duration 300ms\nhold 0s\nbuffer 5\nmax_channels 1\n}", filter+"\nmegaphone")
	c := s.create()
	file.wants(map[string]any{"endpoint": "create", "messages": 0})
	s.do(http.MethodPost, "/create", nil, nil)
	file.wants(map[string]any{"endpoint": "create", "messages": 0, "error": "LIMIT_REACHED"})

	s.write(c, "1")
	line, object := file.entry()
	if channel := object["channel"]; channel != c.ProducerAddress[:len("main.")+4]+"…" || object["messages"] != 1.0 {
		t.Errorf("a write is logged as %v", object)
	}
	s.post("/write-batch", `{"channels":["`+c.ProducerAddress+`","main.x"],"messages":[{"streamId":"s","body":1},{"streamId":"s","body":2}]}`)
	file.wants(map[string]any{"endpoint": "write-batch", "messages": 2})
	s.do(http.MethodPost, "/write", http.Header{"Content-Type": {"application/x-ndjson"}},
		strings.NewReader(`{"channel":"`+c.ProducerAddress+`","streamId":"s","body":1}`))
	file.wants(map[string]any{"endpoint": "ingest", "messages": 1})

	s.read("/read/"+c.ConsumerAddress).ends("1", "1", "2", "1")
	file.wants(map[string]any{"endpoint": "read", "transport": "ndjson", "messages": 4, "ended_by": "complete"})
	s.get("/read/" + c.ConsumerAddress + "?poll=0&after=x")
	file.wants(map[string]any{"endpoint": "read", "transport": "poll", "messages": 0, "resumed": "gap", "ended_by": "complete"})
	conn := s.dial(c, "?after=")
	events := s.open(http.MethodGet, "/read/"+c.ConsumerAddress, http.Header{"Accept": {"text/event-stream"}}, nil)
	s.closed(conn, websocket.StatusCode(4409))
	file.wants(map[string]any{"endpoint": "read", "transport": "websocket", "messages": 0, "ended_by": "taken_over"})
	events.Body.Close()
	file.wants(map[string]any{"endpoint": "read", "transport": "sse", "messages": 0, "ended_by": "broken"})
	s.get("/read/" + c.ProducerAddress + "?poll=0")
	last, _ := file.entry()

	text, err := os.ReadFile(file.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{c.ConsumerAddress, c.ProducerAddress} {
		if strings.Contains(string(text), address[len("main.")+4:]) {
			t.Errorf("the log has the secret %s", address)
		}
	}
	if !strings.Contains(line, `"uri":"/write/`+c.ProducerAddress[:len("main.")+4]+`…/stream"`) || !strings.Contains(last, "…?poll=0") {
		t.Errorf("the filter leaves\n%s%s", line, last)
	}
}

func TestPlaceholders(t *testing.T) {
	file := &accessLog{T: t, path: filepath.Join(t.TempDir(), "access.log")}
	s := serve(t, "", `log {
		output file `+file.path+` {
			roll_disabled
		}
	}
	log_append one {http.megaphone.endpoint}
	log_append two {http.megaphone.channel}
	log_append three {http.megaphone.transport}
	log_append four {http.megaphone.messages}
	log_append five {http.megaphone.resumed}
	log_append six {http.megaphone.ended_by}
	log_append seven {http.megaphone.error}
	log_append eight {http.megaphone.none}
	megaphone`)
	c := s.create()
	file.entry()
	s.write(c, "1")
	file.entry()
	s.get("/read/" + c.ConsumerAddress + "?poll=0&after=x")
	if line, _ := file.entry(); !strings.Contains(line, `"eight":null,"seven":"","six":"complete","five":"gap","four":1,"three":"poll",`+
		`"two":"`+c.ConsumerAddress[:len("main.")+4]+`…","one":"read"`) {
		t.Error(line)
	}
	s.get("/create")
	if line, _ := file.entry(); !strings.Contains(line, `"seven":"METHOD_NOT_ALLOWED","six":"","five":"","four":0,"three":"","two":"","one":"create"`) {
		t.Error(line)
	}
}

// TestLimitWarnings: a limit that is reached is logged, but not each time.
func TestLimitWarnings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	s := serve(t, "log warnings {\noutput file "+path+" {\nroll_disabled\n}\ninclude http.handlers.megaphone\n}\nmegaphone {\nmax_channels 1\n}", "megaphone")
	s.create()
	for range 10 {
		s.do(http.MethodPost, "/create", nil, nil)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n != 1 {
		t.Errorf("%d lines:\n%s", n, text)
	}
	for _, want := range []string{`"level":"warn"`, `"setting":"max_channels"`, `"refused":1`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s has no %s", text, want)
		}
	}
}

// TestWebhooksUseTheConfiguredLogs: what becomes of announcements is logged as the configuration says that is loaded
// then, for the outputs of an earlier one may be closed.
func TestWebhooksUseTheConfiguredLogs(t *testing.T) {
	for name, test := range map[string]struct {
		site        string // of the configuration that is loaded meanwhile, if any
		withWebhook bool
	}{
		"one that stays":                   {},
		"one that is in the next one, too": {"megaphone create manage", true},
		"one that is removed":              {"megaphone create manage", false},
		"one that is removed, with all":    {"respond 204", false},
	} {
		t.Run(name, func(t *testing.T) {
			var status atomic.Int32
			status.Store(http.StatusInternalServerError)
			receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) }))
			t.Cleanup(receiver.Close)
			dir := t.TempDir()
			logTo := func(name string) string {
				return fmt.Sprintf("log mega {\noutput file %s {\nroll_disabled\n}\ninclude megaphone\n}\nlog other {\nexclude megaphone\n}\n", filepath.Join(dir, name))
			}
			logged := func(name, line string) bool {
				text, _ := os.ReadFile(filepath.Join(dir, name))
				return strings.Contains(string(text), line) && strings.Contains(string(text), `"logger":"megaphone.webhook"`)
			}
			hook := "megaphone {\nwebhook channel_deleted " + receiver.URL + "\n}\n"
			s := serve(t, logTo("first")+hook, "megaphone create manage")
			s.delete(1)
			s.eventually(func() bool { return logged("first", "a webhook failed and will be repeated") })
			last := "first"
			if test.site != "" {
				last = "second"
				settings := logTo(last)
				if test.withWebhook {
					settings += hook
				}
				if err := s.load(settings, test.site); err != nil {
					t.Fatal(err)
				}
			}
			status.Store(http.StatusBadRequest)
			s.eventually(func() bool { return logged(last, "announcements are lost") })
		})
	}
}
