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

// The page to look inside: it creates channels, writes, and reads over each transport side by side. It uses the
// endpoints of the site that serves it, and nothing else.
//
//go:embed ui
var uiFolder embed.FS

// uiPolicy lets the page load its own files only, talk to its own site only, and be in no frame.
const uiPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

const (
	// uiIndex is the file that the address of the page itself stands for.
	uiIndex = "index.html"
	// uiStateFile is no file: what the page is told of the site.
	uiStateFile = "state.json"
)

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

// uiFiles returns the files of the page by their names.
var uiFiles = sync.OnceValue(func() map[string]uiFile {
	entries, err := uiFolder.ReadDir("ui")
	if err != nil {
		panic(err) // it is part of the program
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

// parseUIPath reads what follows "/ui" in a path: nothing, or a slash and the name of a file. It reports false for
// a name that the page has not.
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

// serveUI serves a file of the page.
func (h *Handler) serveUI(w http.ResponseWriter, r *http.Request, name string) error {
	header := w.Header()
	header.Set("Content-Security-Policy", uiPolicy)
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Content-Type-Options", "nosniff")
	switch name {
	case "":
		// Relative, since the site may have taken a prefix off the path; the page's files are relative to the slash.
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

// A uiState is what the page is told of the site.
type uiState struct {
	// Now is the server's time, by which the page knows how far its own clock is off.
	Now        time.Time  `json:"now"`
	Agent      string     `json:"agent"`
	Endpoints  []string   `json:"endpoints"`
	Transports []string   `json:"transports"`
	Settings   uiSettings `json:"settings"`
	// Server is told where the site serves manage.
	Server *uiServer `json:"server,omitempty"`
}

// uiSettings are settings of the server, with durations in milliseconds.
type uiSettings struct {
	Buffer         int   `json:"buffer"`
	InFlight       int   `json:"inFlight"`
	Hold           int64 `json:"hold"`
	TTL            int64 `json:"ttl"`
	ReadDuration   int64 `json:"readDuration"`
	StreamDuration int64 `json:"streamDuration"`
}

// uiServer is how the whole server does. It has nothing by which a channel could be read, written or deleted.
type uiServer struct {
	Channels      int         `json:"channels"`
	MaxChannels   int         `json:"maxChannels"`
	BufferedBytes int64       `json:"bufferedBytes"`
	MaxMemory     int64       `json:"maxMemory"`
	Undelivered   int         `json:"undelivered"`
	Draining      bool        `json:"draining"`
	List          []uiChannel `json:"list"` // not all, if there are many
}

type uiChannel struct {
	ID        string     `json:"id"`
	Connected bool       `json:"connected"`
	Pending   int        `json:"pending"`
	InFlight  int        `json:"inFlight"`
	Created   time.Time  `json:"created"`
	LastRead  *time.Time `json:"lastRead"`
	Expires   *time.Time `json:"expires"`
}

// uiListed is how many channels the page is told of.
const uiListed = 50

// serveUIState tells the page what the site serves, and how the server does.
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
	state.Now = time.Now().UTC()
	reply, err := json.Marshal(state)
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, reply)
	return nil
}

// uiServer says how the server does.
func (a *App) uiServer(ctx context.Context) (*uiServer, error) {
	page, err := a.broker.List(ctx, broker.ListOptions{Limit: uiListed})
	if err != nil {
		return nil, err
	}
	stats := a.registry.stats()
	server := &uiServer{
		Channels:      stats.Channels,
		MaxChannels:   a.MaxChannels,
		BufferedBytes: stats.BufferedBytes,
		MaxMemory:     a.MaxMemory,
		Undelivered:   int(stats.AllUndelivered()), //nolint:gosec // far below the limit
		Draining:      a.registry.drains(),
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
