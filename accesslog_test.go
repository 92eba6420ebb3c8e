package megaphone_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/coder/websocket"
)

// An accessLog is the file of a site's access log.
type accessLog struct {
	*testing.T

	path string
	seen int
}

func newAccessLog(t *testing.T) *accessLog {
	return &accessLog{T: t, path: filepath.Join(t.TempDir(), "access.log")}
}

// setting returns the start of a site's log directive. Further options and a closing brace must follow.
func (l *accessLog) setting() string {
	return "log {\noutput file " + l.path + " {\nroll_disabled\n}\n"
}

// entry waits for the next line. It returns the line and the line's object megaphone.
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
	l.Fatal("the access log has no further line")
	return "", nil
}

// wants checks the object of the next line. It ignores the member channel, which requests with an address have.
func (l *accessLog) wants(want map[string]any) {
	l.Helper()
	line, got := l.entry()
	delete(got, "channel")
	if fmt.Sprint(got) != fmt.Sprint(want) {
		l.Errorf("logged %v, want %v in\n%s", got, want, line)
	}
}

// docFilter returns the filter of docs/logging.md, with its imports done.
func docFilter(t *testing.T) string {
	t.Helper()
	parts := regexp.MustCompile(`(?s)\{args\[0\]\} (regexp [^\n]*)\n.*(\tformat filter \{.*?\n\t\}\n)`).FindStringSubmatch(docBlock(t, "logging.md", "format filter"))
	if parts == nil {
		t.Fatal("docs/logging.md has another filter")
	}
	return regexp.MustCompile(`import cut_addresses (\S+)`).ReplaceAllString(parts[2], "$1 "+strings.ReplaceAll(parts[1], "$", "$$"))
}

// redacted returns the part of an address of the agent main that may be logged.
func redacted(address string) string { return address[:len("main.")+4] + "…" }

// TestAccessLog checks what Megaphone adds to the log of a request, and that the log has no secrets if the site uses the
// filter from docs/logging.md.
func TestAccessLog(t *testing.T) {
	file := newAccessLog(t)
	s := serve(t, "megaphone {\nread_duration 300ms\nhold 0s\nbuffer 5\nmax_channels 1\n}", file.setting()+docFilter(t)+"}\nmegaphone")
	c := s.create()
	file.wants(map[string]any{"endpoint": "create", "messages": 0})
	s.tryCreate()
	file.wants(map[string]any{"endpoint": "create", "messages": 0, "error": "LIMIT_REACHED"})

	s.write(c, "1")
	line, object := file.entry()
	if object["channel"] != redacted(c.ProducerAddress) || object["messages"] != 1.0 {
		t.Errorf("a write is logged as %v", object)
	}
	s.post("/write-batch", `{"channels":["`+c.ProducerAddress+`","main.x"],"messages":[{"streamId":"s","body":1},{"streamId":"s","body":2}]}`)
	file.wants(map[string]any{"endpoint": "write-batch", "messages": 2})
	s.ingest(strings.NewReader(ingestLine(c.ProducerAddress, "1")))
	file.wants(map[string]any{"endpoint": "ingest", "messages": 1})

	s.read(c).ends("1", "1", "2", "1")
	file.wants(map[string]any{"endpoint": "read", "transport": "ndjson", "messages": 4, "ended_by": "complete"})
	s.get(c.readPath() + "?poll=0&after=x")
	file.wants(map[string]any{"endpoint": "read", "transport": "poll", "messages": 0, "resumed": "gap", "ended_by": "complete"})
	conn := s.dial(c, "?after=")
	events := s.openSSE(c)
	s.wantClose(conn, websocket.StatusCode(4409))
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
	if !strings.Contains(line, `"uri":"/write/`+redacted(c.ProducerAddress)+`/stream"`) || !strings.Contains(last, "…?poll=0") {
		t.Errorf("with the filter, the log has\n%s%s", line, last)
	}
}

func init() { caddy.RegisterModule(failingHandler{}) }

// A failingHandler is a handler of Caddy's events that fails, and names the event's channel.
type failingHandler struct{}

func (failingHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.fail", New: func() caddy.Module { return new(failingHandler) }}
}

func (*failingHandler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (*failingHandler) Handle(_ context.Context, e caddy.Event) error {
	return fmt.Errorf("no place for %v", e.Data["channel"])
}

// TestTheLogOfAFailingEventHandler checks that the filter from docs/logging.md leaves no address in it.
func TestTheLogOfAFailingEventHandler(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	s := serve(t, "events {\non megaphone.channel_created fail\n}\nlog events {\ninclude events\noutput file "+path+" {\nroll_disabled\n}\n"+docFilter(t)+"}", "megaphone")
	c := s.create()
	var text []byte
	s.eventually(func() bool {
		text, _ = os.ReadFile(path)
		return strings.Contains(string(text), "no place for "+redacted(c.ConsumerAddress))
	})
	if strings.Contains(string(text), c.ConsumerAddress) {
		t.Errorf("an address is in\n%s", text)
	}
}

func TestPlaceholders(t *testing.T) {
	file := newAccessLog(t)
	s := serve(t, "", file.setting()+`}
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
	s.get(c.readPath() + "?poll=0&after=x")
	if line, _ := file.entry(); !strings.Contains(line, `"eight":null,"seven":"","six":"complete","five":"gap","four":1,"three":"poll",`+
		`"two":"`+redacted(c.ConsumerAddress)+`","one":"read"`) {
		t.Error(line)
	}
	s.get("/create")
	if line, _ := file.entry(); !strings.Contains(line, `"seven":"METHOD_NOT_ALLOWED","six":"","five":"","four":0,"three":"","two":"","one":"create"`) {
		t.Error(line)
	}
}
