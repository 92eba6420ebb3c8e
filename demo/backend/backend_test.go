package backend

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A fakeMegaphone accepts and records what the chat sends.
type fakeMegaphone struct {
	*httptest.Server

	down bool
	sent []string // the requests, as "method path key body", without times
}

func newMegaphone(t *testing.T) *fakeMegaphone {
	m := &fakeMegaphone{}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		text, _, _ := strings.Cut(string(body), `,"at":`)
		m.sent = append(m.sent, strings.Join([]string{r.Method, r.URL.EscapedPath(), r.Header.Get("Idempotency-Key"), text}, " "))
		_ = json.NewEncoder(w).Encode(map[string]string{"producerAddress": "write-a", "consumerAddress": "read-a"})
	}))
	t.Cleanup(m.Close)
	return m
}

// wantSent checks what the chat has sent since the last check.
func (m *fakeMegaphone) wantSent(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(m.sent, want) {
		t.Errorf("sent %q, want %q", m.sent, want)
	}
	m.sent = nil
}

// ask sends a request as a page does.
func ask(c *Chat, what, body string) (status int, reply string) {
	w := httptest.NewRecorder()
	c.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/api/"+what, strings.NewReader(body)))
	return w.Code, strings.TrimSpace(w.Body.String())
}

const (
	remember = `PUT /topic/lobby  {"keep":"1MB","ttl":"24h"}`
	say      = `{"room":"lobby","user":"user-of-a-test","name":"Ann","id":"message-1","text":"hello"}`
	hello    = `POST /publish/lobby/lobby message-1 {"kind":"message","user":"user-of-a-test","name":"Ann","id":"message-1","text":"hello"`
)

func TestRoomsAreTopics(t *testing.T) {
	m := newMegaphone(t)
	c := New(m.URL)
	// A page learns how to read its channel, but not how to write to it.
	if status, reply := ask(c, "enter", `{"room":"lobby"}`); status != http.StatusOK || reply != `{"consumerAddress":"read-a"}` {
		t.Errorf("enter: %d %s", status, reply)
	}
	m.wantSent(t, remember, `POST /create  {"topics":[{"last":"all","topic":"lobby"},"lobby hints"]}`)
	// A repeat is the same message with the same key, so Megaphone can drop it.
	for range 2 {
		if status, _ := ask(c, "say", say); status != http.StatusOK {
			t.Errorf("say: %d", status)
		}
		m.wantSent(t, remember, hello)
	}
	if status, _ := ask(c, "hint", `{"room":"lobby","user":"user-of-a-test","name":"Ann","kind":"typing"}`); status != http.StatusOK {
		t.Errorf("hint: %d", status)
	}
	m.wantSent(t, `POST /publish/lobby%20hints/lobby  {"kind":"typing","user":"user-of-a-test","name":"Ann"`)
}

func TestPagesAreToldToTryAgain(t *testing.T) {
	m := newMegaphone(t)
	c := New(m.URL)
	m.down = true
	for what, body := range map[string]string{"enter": `{"room":"lobby"}`, "say": say, "hint": say} {
		if status, _ := ask(c, what, body); status != http.StatusServiceUnavailable {
			t.Errorf("%s without Megaphone: %d", what, status)
		}
	}
	m.down = false
	if status, _ := ask(c, "say", say); status != http.StatusOK {
		t.Errorf("say: %d", status)
	}
	m.wantSent(t, remember, hello)
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	m := newMegaphone(t)
	c := New(m.URL)
	for _, request := range []string{
		`enter {`, `enter {}`, `enter {"room":"Lobby!"}`, `leave {"room":"lobby"}`, `say {"room":"lobby"}`, `hint {"room":"lobby"}`,
		"say " + strings.Replace(say, "message-1", "x", 1), "say " + strings.Replace(say, "Ann", "", 1),
		"say " + strings.Replace(say, "hello", "", 1), "say " + strings.Replace(say, "hello", strings.Repeat("x", 20<<10), 1),
	} {
		what, body, _ := strings.Cut(request, " ")
		if status, _ := ask(c, what, body); status != http.StatusBadRequest {
			t.Errorf("%.80s: %d", request, status)
		}
	}
	m.wantSent(t)
	w := httptest.NewRecorder()
	c.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/enter", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", w.Code)
	}
}

// TestTheBackendIsShort keeps the backend short enough to be read in one sitting.
func TestTheBackendIsShort(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines += strings.Count(string(text), "\n")
	}
	if lines == 0 || lines > 140 {
		t.Errorf("the backend has %d lines, and should have at most 140", lines)
	}
}
