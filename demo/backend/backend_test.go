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

	down    bool
	created int
	gone    map[string]bool // producer addresses of channels that no longer exist
	sent    []string        // the sent messages, as "channel stream key"
}

func newMegaphone(t *testing.T) *fakeMegaphone {
	m := &fakeMegaphone{gone: map[string]bool{}}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if r.URL.Path == "/create" {
			m.created++
			name := string(rune('a' - 1 + m.created))
			_ = json.NewEncoder(w).Encode(map[string]string{"producerAddress": name, "consumerAddress": "read-" + name})
			return
		}
		var batch struct {
			Channels []string
			Messages []struct {
				StreamID, Key string
				Body          struct{ Kind string }
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&batch); err != nil {
			t.Error(err)
		}
		failures := []map[string]string{}
		slices.Sort(batch.Channels)
		for _, channel := range batch.Channels {
			if m.gone[channel] {
				failures = append(failures, map[string]string{"channel": channel, "reason": "NOT_FOUND"})
			} else if message := batch.Messages[0]; message.Body.Kind == "message" {
				m.sent = append(m.sent, channel+" "+message.StreamID+" "+message.Key)
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"failures": failures})
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

type joined struct {
	ConsumerAddress string // also identifies the session
	Messages        []message
	Newest          int
}

// ask sends a request as a page does. It returns the status of the reply.
func ask(t *testing.T, c *Chat, what, body string, reply any) int {
	t.Helper()
	w := httptest.NewRecorder()
	c.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/api/"+what, strings.NewReader(body)))
	if reply != nil {
		if err := json.Unmarshal(w.Body.Bytes(), reply); err != nil {
			t.Fatalf("%s %s: %d %v", what, body, w.Code, err)
		}
	}
	return w.Code
}

func join(t *testing.T, c *Chat, more string) (j joined) {
	t.Helper()
	if status := ask(t, c, "join", `{"user":"user-of-a-test","name":"Ann","room":"lobby"`+more+`}`, &j); status != http.StatusOK {
		t.Fatalf("join: %d", status)
	}
	return j
}

func newChat(t *testing.T, m *fakeMegaphone, file string) *Chat {
	t.Helper()
	c, err := New(m.URL, file)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMessagesGoToTheRoom(t *testing.T) {
	m := newMegaphone(t)
	c := newChat(t, m, filepath.Join(t.TempDir(), "chat.json"))
	ann, bob := join(t, c, ""), join(t, c, "")
	join(t, c, `,"room":"kitchen"`)
	if ann.ConsumerAddress != "read-a" || bob.ConsumerAddress != "read-b" {
		t.Errorf("%+v, %+v", ann, bob)
	}
	say := `{"session":"` + ann.ConsumerAddress + `","room":"lobby","id":"message-1","text":"hello"}`
	if status := ask(t, c, "say", say, nil); status != http.StatusOK {
		t.Errorf("say: %d", status)
	}
	m.wantSent(t, "a lobby message-1", "b lobby message-1")

	// A repeat is the same message with the same key, so Megaphone and pages can drop it.
	var again message
	ask(t, c, "say", say, &again)
	m.wantSent(t, "a lobby message-1", "b lobby message-1")
	if j := join(t, c, `,"session":"`+bob.ConsumerAddress+`"`); again.N != 1 || j.Newest != 1 || len(j.Messages) != 1 || j.Messages[0].Text != "hello" {
		t.Errorf("%+v, %+v", again, j)
	}
	if j := join(t, c, `,"session":"`+bob.ConsumerAddress+`","after":1`); len(j.Messages) != 0 || j.ConsumerAddress != "read-b" {
		t.Errorf("%+v", j)
	}
}

func TestAMessageThatWasNotSentIsRepeated(t *testing.T) {
	m := newMegaphone(t)
	c := newChat(t, m, filepath.Join(t.TempDir(), "chat.json"))
	say := `{"session":"` + join(t, c, "").ConsumerAddress + `","room":"lobby","id":"message-1","text":"hello"}`
	m.down = true
	if status := ask(t, c, "say", say, nil); status != http.StatusServiceUnavailable {
		t.Errorf("say without Megaphone: %d", status)
	}
	if status := ask(t, c, "join", `{"user":"user-of-a-test","name":"Bob","room":"lobby"}`, nil); status != http.StatusServiceUnavailable {
		t.Errorf("join without Megaphone: %d", status)
	}
	m.down = false
	if status := ask(t, c, "say", say, nil); status != http.StatusOK {
		t.Errorf("say: %d", status)
	}
	m.wantSent(t, "a lobby message-1")
}

func TestWhoseChannelIsGoneHasLeft(t *testing.T) {
	m := newMegaphone(t)
	c := newChat(t, m, filepath.Join(t.TempDir(), "chat.json"))
	ann, bob := join(t, c, ""), join(t, c, "")
	m.gone["b"] = true
	ask(t, c, "say", `{"session":"`+ann.ConsumerAddress+`","room":"lobby","id":"message-1","text":"hello"}`, nil)
	say := `{"session":"` + bob.ConsumerAddress + `","room":"lobby","id":"message-2","text":"hello"}`
	if status := ask(t, c, "say", say, nil); status != http.StatusNotFound {
		t.Errorf("say after the page has left: %d", status)
	}
	if j := join(t, c, `,"session":"`+bob.ConsumerAddress+`","renew":true`); j.ConsumerAddress != "read-c" || len(j.Messages) != 1 {
		t.Errorf("%+v", j)
	}
	ask(t, c, "leave", `{"session":"`+ann.ConsumerAddress+`","room":"lobby"}`, nil)
	if len(c.memory.Sessions) != 1 {
		t.Errorf("%d are there", len(c.memory.Sessions))
	}
}

func TestARestartForgetsNothing(t *testing.T) {
	m := newMegaphone(t)
	file := filepath.Join(t.TempDir(), "chat.json")
	c := newChat(t, m, file)
	ann := join(t, c, "")
	ask(t, c, "say", `{"session":"`+ann.ConsumerAddress+`","room":"lobby","id":"message-1","text":"before"}`, nil)
	c = newChat(t, m, file)
	if status := ask(t, c, "say", `{"session":"`+ann.ConsumerAddress+`","room":"lobby","id":"message-2","text":"after"}`, nil); status != http.StatusOK {
		t.Errorf("say: %d", status)
	}
	m.wantSent(t, "a lobby message-1", "a lobby message-2")
	if j := join(t, c, ""); len(j.Messages) != 2 || j.Messages[1].N != 2 {
		t.Errorf("%+v", j)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(m.URL, file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a broken memory: %v", err)
	}
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	c := newChat(t, newMegaphone(t), filepath.Join(t.TempDir(), "chat.json"))
	session := join(t, c, "").ConsumerAddress
	for _, request := range []string{
		`join {`, `join {}`, `join {"room":"Lobby!"}`, `join {"room":"lobby","name":"Ann"}`, `join {"room":"lobby","user":"user-of-a-test"}`,
		`say {"room":"lobby","text":"x","id":"message-1"}`, `say {"room":"lobby","text":"x","session":"` + session + `","id":"x"}`,
		`say {"room":"lobby","text":"` + strings.Repeat("x", 20<<10) + `","session":"` + session + `","id":"message-1"}`,
	} {
		what, body, _ := strings.Cut(request, " ")
		if status := ask(t, c, what, body, nil); status < 400 || status >= 500 {
			t.Errorf("%.80s: %d", request, status)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/api/join", nil)
	w := httptest.NewRecorder()
	c.ServeHTTP(w, r)
	if body, _ := io.ReadAll(w.Body); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d %s", w.Code, body)
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
	if lines == 0 || lines > 200 {
		t.Errorf("the backend has %d lines, and should have at most 200", lines)
	}
}
