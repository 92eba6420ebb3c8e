package megaphone

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"path"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// uiFolder holds the Inspector: a page that creates channels, writes, and reads over each transport side by side. The
// page uses the endpoints of the site that serves it, and nothing else.
//
//go:embed ui
var uiFolder embed.FS

// uiPolicy lets the page load only its own files and talk only to its own site. It forbids frames around the page.
const uiPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

const (
	// uiIndex is the file at the address of the page itself.
	uiIndex = "index.html"
	// uiStateFile is the name of what serveUIState replies. It is not a file.
	uiStateFile = "state.json"
)

// uiTypes are the content types of the page's files, by their extensions.
var uiTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// A uiFile is one of the files of the page.
type uiFile struct {
	content []byte
	etag    string
}

// uiFiles returns the page's files by name. It reads them once.
var uiFiles = sync.OnceValue(func() map[string]uiFile {
	entries, err := uiFolder.ReadDir("ui")
	if err != nil {
		panic(err) // cannot happen: the folder is part of the program
	}
	files := make(map[string]uiFile, len(entries))
	for _, entry := range entries {
		content, err := uiFolder.ReadFile("ui/" + entry.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(content)
		files[entry.Name()] = uiFile{content, `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`}
	}
	return files
})

// parseUIPath parses the part of a path after "/ui": nothing, or a slash and the name of a file. The rest is what
// follows the slash, and hasRest says whether there is a slash. Without one, file is "". It reports false if the page
// has no such file.
func parseUIPath(rest string, hasRest bool) (file string, ok bool) {
	switch {
	case !hasRest:
		return "", true
	case rest == "":
		return uiIndex, true
	case rest == uiStateFile:
		return rest, true
	}
	_, ok = uiFiles()[rest]
	return rest, ok
}

// serveUI serves a file of the page. For the name "" it redirects to the page.
func (h *Handler) serveUI(w http.ResponseWriter, r *http.Request, name string) error {
	header := w.Header()
	header.Set("Content-Security-Policy", uiPolicy)
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Content-Type-Options", "nosniff")
	switch name {
	case "":
		// The location is relative, because the site may have removed a prefix from the path. It ends in a slash,
		// because the page names its files relative to that.
		header.Set("Location", "ui/")
		w.WriteHeader(http.StatusPermanentRedirect)
		return nil
	case uiStateFile:
		return h.serveUIState(w, r)
	}
	file := uiFiles()[name]
	header.Set("Cache-Control", "no-cache")
	header.Set("Content-Type", uiTypes[path.Ext(name)])
	header.Set("ETag", file.etag)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(file.content))
	return nil
}

// A uiState tells the page about the site and the server.
type uiState struct {
	// Now is the server's time. The page compares its own clock with it.
	Now        time.Time  `json:"now"`
	Agent      string     `json:"agent"`
	Endpoints  []string   `json:"endpoints"`
	Transports []string   `json:"transports"`
	Settings   uiSettings `json:"settings"`
	// Server is nil unless the site serves manage.
	Server *uiServer `json:"server,omitempty"`
	// Topics are some of the topics, at most uiListed. It is nil unless the site serves topics.
	Topics []uiTopic `json:"topics,omitempty"`
}

// A uiTopic is a topic and its state.
type uiTopic struct {
	Name string `json:"topic"`
	topicState
}

// uiSettings are settings of the server. Durations are in milliseconds.
type uiSettings struct {
	Buffer         int   `json:"buffer"`
	InFlight       int   `json:"inFlight"`
	Hold           int64 `json:"hold"`
	TTL            int64 `json:"ttl"`
	ReadDuration   int64 `json:"readDuration"`
	StreamDuration int64 `json:"streamDuration"`
}

// A uiServer is the state of the whole server. It contains nothing that gives access to a channel.
type uiServer struct {
	Channels      int         `json:"channels"`
	MaxChannels   int         `json:"maxChannels"`
	BufferedBytes int64       `json:"bufferedBytes"`
	MaxMemory     int64       `json:"maxMemory"`
	Undelivered   int         `json:"undelivered"`
	Draining      bool        `json:"draining"`
	List          []uiChannel `json:"list"` // at most uiListed of the channels
}

// A uiChannel is the state of one channel. Its id is not an address.
type uiChannel struct {
	ID        string     `json:"id"`
	Connected bool       `json:"connected"`
	Pending   int        `json:"pending"`
	InFlight  int        `json:"inFlight"`
	Created   time.Time  `json:"created"`
	LastRead  *time.Time `json:"lastRead"` // null if the channel was never read
	Expires   *time.Time `json:"expires"`  // null while the channel has a reader
}

// uiListed is how many channels the page lists at most.
const uiListed = 50

// serveUIState replies with a uiState.
func (h *Handler) serveUIState(w http.ResponseWriter, r *http.Request) error {
	state := uiState{
		Agent:      h.app.Agent,
		Endpoints:  orAll(h.Endpoints, standardPermissions),
		Transports: orAll(h.Transports, transport.KindNames),
		Settings: uiSettings{
			Buffer:         h.app.Buffer,
			InFlight:       h.app.InFlight,
			Hold:           time.Duration(*h.app.Hold).Milliseconds(),
			TTL:            time.Duration(h.app.TTL).Milliseconds(),
			ReadDuration:   time.Duration(h.app.ReadDuration).Milliseconds(),
			StreamDuration: time.Duration(h.app.StreamDuration).Milliseconds(),
		},
	}
	if h.serves[manageEndpoint] {
		server, err := h.app.uiServer(r.Context())
		if err != nil {
			return err
		}
		state.Server = server
	}
	if h.serves[topicEndpoint] {
		page, err := h.topics.ListTopics(r.Context(), broker.TopicListOptions{Limit: uiListed})
		if err != nil {
			return err
		}
		for _, info := range page.Topics {
			state.Topics = append(state.Topics, uiTopic{info.Name, newTopicState(info)})
		}
	}
	state.Now = time.Now().UTC()
	reply, err := json.Marshal(state)
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, reply)
	return nil
}

// uiServer returns the state of the whole server.
func (a *App) uiServer(ctx context.Context) (*uiServer, error) {
	page, err := a.broker.List(ctx, broker.ListOptions{Limit: uiListed})
	if err != nil {
		return nil, err
	}
	stats := broker.StatsOf(a.broker)
	server := &uiServer{
		Channels:      stats.Channels,
		MaxChannels:   a.MaxChannels,
		BufferedBytes: stats.BufferedBytes,
		MaxMemory:     a.MaxMemory,
		Undelivered:   int(stats.AllUndelivered()), //nolint:gosec // far below the limit
		Draining:      broker.IsDraining(a.broker),
		List:          make([]uiChannel, 0, len(page.Channels)),
	}
	for _, c := range page.Channels {
		server.List = append(server.List, uiChannel{
			ID:        c.ID,
			Connected: c.Connected,
			Pending:   c.Pending,
			InFlight:  c.InFlight,
			Created:   c.Created.UTC(),
			LastRead:  httpjson.TimeOrNull(c.LastRead),
			Expires:   httpjson.TimeOrNull(c.Expires),
		})
	}
	return server, nil
}
