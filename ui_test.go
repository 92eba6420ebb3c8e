package megaphone_test

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestUIIsServedIfConfigured(t *testing.T) {
	s := serve(t, "", "route {\nhandle_path /inside/* {\nmegaphone create ui\n}\nmegaphone read ui\nrespond next 418\n}")
	for path, contentType := range map[string]string{
		"/ui/":           "text/html; charset=utf-8",
		"/ui/index.html": "text/html; charset=utf-8",
		"/ui/ui.js":      "text/javascript; charset=utf-8",
		"/ui/ui.css":     "text/css; charset=utf-8",
		"/ui/icon.svg":   "image/svg+xml",
		"/ui/state.json": "application/json",
		"/inside/ui/":    "text/html; charset=utf-8",
	} {
		r := s.get(path)
		if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != contentType || r.body == "" {
			t.Errorf("%s: %d %s", path, r.StatusCode, r.Header.Get("Content-Type"))
		}
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self';", "Referrer-Policy": "no-referrer",
			"X-Content-Type-Options": "nosniff", "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-",
		} {
			if got := r.Header.Get(name); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %s: %q, want %q", path, name, got, want)
			}
		}
	}
	for _, path := range []string{"/ui/other.js", "/ui/ui.js/", "/ui/../ui.go", "/ui//", "/uix", "/ui/%2e%2e/ui.go"} {
		if r := s.get(path); r.StatusCode != http.StatusTeapot {
			t.Errorf("%s: %d", path, r.StatusCode)
		}
	}
	s.post("/ui/", "{}").wantError(t, 405, "METHOD_NOT_ALLOWED")
	if r := s.do(http.MethodHead, "/ui/", nil, nil); r.StatusCode != http.StatusOK || r.body != "" {
		t.Errorf("HEAD: %d %q", r.StatusCode, r.body)
	}
}

func TestUIIsOffByDefault(t *testing.T) {
	s := serve(t, "", "route {\nmegaphone\nrespond next 418\n}")
	for _, path := range []string{"/ui", "/ui/", "/ui/ui.js", "/ui/state.json"} {
		if r := s.get(path); r.StatusCode != http.StatusTeapot {
			t.Errorf("%s: %d", path, r.StatusCode)
		}
	}
}

func TestUIRedirectsToThePathWithASlash(t *testing.T) {
	s := serve(t, "", "handle_path /inside/* {\nmegaphone ui\n}")
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	r := s.get("/inside/ui")
	// The location is relative because the handler does not know the prefix.
	if location := r.Header.Get("Location"); r.StatusCode != http.StatusPermanentRedirect || location != "ui/" {
		t.Errorf("%d to %q", r.StatusCode, location)
	}
}

func TestUIIsCachedByItsContent(t *testing.T) {
	s := serve(t, "", "megaphone ui")
	first := s.get("/ui/ui.js")
	etag := first.Header.Get("ETag")
	if r := s.do(http.MethodGet, "/ui/ui.js", http.Header{"If-None-Match": {etag}}, nil); etag == "" || r.StatusCode != http.StatusNotModified {
		t.Errorf("ETag %q: %d", etag, r.StatusCode)
	}
}

func TestUIStateShowsWhatTheSiteServes(t *testing.T) {
	s := serve(t, "megaphone {\nagent here\nbuffer 7\nhold 2s\n}", "megaphone create read ui {\ntransports sse poll\n}")
	before := time.Now()
	r := s.get("/ui/state.json")
	var state struct {
		Now                   time.Time
		Agent                 string
		Endpoints, Transports []string
		Settings              struct{ Buffer, Hold int }
	}
	if err := json.Unmarshal([]byte(r.body), &state); err != nil {
		t.Fatal(err)
	}
	if state.Now.Before(before.Round(0)) || state.Now.After(time.Now()) {
		t.Errorf("now: %v", state.Now)
	}
	if got := strings.Join(append(state.Endpoints, state.Transports...), " "); got != "create read ui sse poll" {
		t.Errorf("serves %s", got)
	}
	if state.Agent != "here" || state.Settings.Buffer != 7 || state.Settings.Hold != 2000 {
		t.Errorf("%+v", state)
	}
}

// A uiServerState is what /ui/state.json says of the server.
type uiServerState struct {
	Health string
	Server struct {
		Channels, UsedBytes, HeldProducers, Pending, Accepted, Readers int
		Drain                                                          *struct{ Channels, Remaining int }
		List                                                           []uiChannelState
		Asked                                                          []*uiChannelState
		Nodes                                                          []struct {
			Host string
			Self bool
		}
	}
}

type uiChannelState struct {
	ID                     string
	Pending, HeldProducers int
	Connected              bool
	Expires                time.Time
}

// uiState gets the state with a query.
func (s *server) uiState(query string) (state uiServerState, body string) {
	s.Helper()
	r := s.get("/all/ui/state.json" + query)
	if err := json.Unmarshal([]byte(r.body), &state); err != nil || r.StatusCode != http.StatusOK {
		s.Fatalf("%d %v: %s", r.StatusCode, err, r.body)
	}
	return state, r.body
}

const uiSite = "handle_path /all/* {\nmegaphone manage ui\n}\nmegaphone create write ui"

func TestUIStateShowsChannelsIfTheSiteServesManage(t *testing.T) {
	s := serve(t, "megaphone {\nbuffer 1\n}", uiSite)
	c := s.create()
	s.write(c, "1")
	if r := s.get("/ui/state.json?channel=" + c.ConsumerAddress); strings.Contains(r.body, `"server"`) {
		t.Errorf("without manage: %s", r.body)
	}
	held := s.startWrite(c, "2")
	s.awaitHeldWrite()
	state, body := s.uiState("")
	s.do(http.MethodDelete, "/all/channel/"+c.ConsumerAddress, nil, nil)
	<-held
	list := state.Server.List
	if state.Server.Channels != 1 || state.Server.HeldProducers != 1 || state.Server.UsedBytes == 0 || state.Server.Accepted != 1 || state.Server.Pending != 1 || len(list) != 1 ||
		list[0].Pending != 1 || list[0].HeldProducers != 1 || list[0].Connected || list[0].Expires.IsZero() {
		t.Errorf("%s", body)
	}
	for _, address := range []string{c.ProducerAddress, c.ConsumerAddress} {
		if _, secret, _ := strings.Cut(address, "."); strings.Contains(body, secret[:8]) {
			t.Errorf("the state has a secret: %s", body)
		}
	}
}

func TestUIStateTellsOfTheChannelsThatItIsAskedFor(t *testing.T) {
	s := serve(t, "", uiSite)
	written, empty := s.create(), s.create()
	s.write(written, "1")
	all, _ := s.uiState("")
	state, body := s.uiState("?only=pending&channel=main.unknown&channel=" + empty.ConsumerAddress + "&channel=" + all.Server.List[0].ID)
	asked := state.Server.Asked
	if len(asked) != 3 || asked[0] != nil || asked[1] == nil || asked[1].Pending != 0 || asked[2] == nil || asked[2].ID != all.Server.List[0].ID {
		t.Errorf("asked: %s", body)
	}
	if list := state.Server.List; len(list) != 1 || list[0].Pending != 1 {
		t.Errorf("with pending messages: %s", body)
	}
	if state, body := s.uiState("?only=connected"); len(state.Server.List) != 0 {
		t.Errorf("connected: %s", body)
	}
	if state, body := s.uiState("?only=left"); len(state.Server.List) != 2 {
		t.Errorf("without a reader: %s", body)
	}
	for _, query := range []string{"?only=some", "?" + strings.Repeat("channel=main.x&", 33)} {
		s.get("/all/ui/state.json"+query).wantError(t, 400, "BAD_REQUEST")
	}
}

func TestUIStateShowsADrain(t *testing.T) {
	s := serveAdmin(t, "", uiSite)
	s.create()
	if state, body := s.uiState(""); state.Health != "OK" || state.Server.Drain != nil {
		t.Errorf("before: %s", body)
	}
	if status := s.call(http.MethodPost, "drain", `{"over":"1m"}`, new(struct{})); status != http.StatusAccepted {
		t.Fatalf("drain: %d", status)
	}
	state, body := s.uiState("")
	if drain := state.Server.Drain; state.Health != "DRAINING" || drain == nil || drain.Channels != 1 || len(state.Server.List)+drain.Remaining < 1 {
		t.Errorf("during: %s", body)
	}
}

// TestUILoadsNothingFromElsewhere checks that the inspector needs neither other servers nor inline scripts and styles. Its
// content security policy blocks them too.
func TestUILoadsNothingFromElsewhere(t *testing.T) {
	entries, err := os.ReadDir("ui")
	if err != nil {
		t.Fatal(err)
	}
	outside := regexp.MustCompile(`(?i)(src|href|url|import|from)\s*[=(]?\s*["']?(https?:)?//`)
	inline := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|<script[^>]*>[^<]|innerHTML|eval\(`)
	for _, entry := range entries {
		text, err := os.ReadFile("ui/" + entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, pattern := range []*regexp.Regexp{outside, inline} {
			if found := pattern.Find(text); found != nil {
				t.Errorf("%s contains %s", entry.Name(), found)
			}
		}
	}
}
