package megaphone

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
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
	Now   time.Time `json:"now"`
	Agent string    `json:"agent"`
	// Health is "OK" if new clients are welcome. Otherwise it is the code of the reason.
	Health     string     `json:"health"`
	Endpoints  []string   `json:"endpoints"`
	Transports []string   `json:"transports"`
	Settings   uiSettings `json:"settings"`
	// Server is nil unless the site serves manage.
	Server *uiServer `json:"server,omitempty"`
	// Topics are some of the topics, at most uiListed. It is nil unless the site serves topics, and can list them now.
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

// A uiServer is the state of the whole server. It contains nothing that gives access to a channel. Counters count since
// the process started.
type uiServer struct {
	Channels      int    `json:"channels"`
	MaxChannels   int    `json:"maxChannels"`
	Readers       int    `json:"readers"`
	MaxReaders    int    `json:"maxReaders"` // 0 if all channels may have one
	HeldProducers int    `json:"heldProducers"`
	Pending       uint64 `json:"pending"`
	InFlight      uint64 `json:"inFlight"`
	UsedBytes     int64  `json:"usedBytes"` // what counts toward MaxMemory
	MaxMemory     int64  `json:"maxMemory"`

	Accepted    uint64 `json:"accepted"`
	Sent        uint64 `json:"sent"`
	Settled     uint64 `json:"settled"`
	Undelivered uint64 `json:"undelivered"`
	Refused     uint64 `json:"refused"` // for want of room or memory

	Topics int `json:"topics"`

	// Drain is nil unless the server is being drained, or is drained.
	Drain *uiDrain `json:"drain"`
	// Nodes are the servers that share the store. It is nil if the Broker has none.
	Nodes []uiNode `json:"nodes,omitempty"`

	// List has at most uiListed of the channels that the request asks for. It is nil if they cannot be listed now.
	List []uiChannel `json:"list"`
	// More tells that there may be more channels than List has.
	More bool `json:"more"`
	// Asked are the channels that the request names, in that order. One that does not exist is nil.
	Asked []*uiChannel `json:"asked,omitempty"`
}

// A uiDrain tells how far a drain has come.
type uiDrain struct {
	Channels  int `json:"channels"`
	Remaining int `json:"remaining"`
}

// A uiNode is a server that shares the store.
type uiNode struct {
	ID      string    `json:"id"`
	Self    bool      `json:"self"`
	Host    string    `json:"host"`
	Process int       `json:"process"`
	Readers int       `json:"readers"`
	Seen    time.Time `json:"seen"`
}

// A uiChannel is the state of one channel. Its id is not an address.
type uiChannel struct {
	ID            string     `json:"id"`
	Connected     bool       `json:"connected"`
	Pending       int        `json:"pending"`
	InFlight      int        `json:"inFlight"`
	HeldProducers int        `json:"heldProducers"`
	Created       time.Time  `json:"created"`
	LastRead      *time.Time `json:"lastRead"` // null if the channel was never read
	Expires       *time.Time `json:"expires"`  // null while the channel has a reader
}

const (
	// uiListed is how many channels and topics the page lists at most.
	uiListed = 100
	// uiAsked is how many channels a request may name.
	uiAsked = 32
)

// A uiQuery is what a request asks of the channels.
type uiQuery struct {
	list  broker.ListOptions
	names []string // ids or addresses
}

// parseUIQuery reads the parameters only (connected, left or pending) and channel, which may be repeated.
func parseUIQuery(r *http.Request) (uiQuery, error) {
	values := r.URL.Query()
	q := uiQuery{names: values["channel"], list: broker.ListOptions{Limit: uiListed}}
	if len(q.names) > uiAsked {
		return q, httpjson.BadRequest(fmt.Sprintf("channel appears more than %d times", uiAsked))
	}
	switch only := values.Get("only"); only {
	case "":
	case "connected", "left":
		connected := only == "connected"
		q.list.Connected = &connected
	case "pending":
		q.list.MinPending = 1
	default:
		return q, httpjson.BadRequest("only is connected, left or pending")
	}
	return q, nil
}

// serveUIState replies with a uiState. It has what there is even if the Broker cannot serve: the page shows why.
func (h *Handler) serveUIState(w http.ResponseWriter, r *http.Request) error {
	q, err := parseUIQuery(r)
	if err != nil {
		return err
	}
	state := uiState{
		Agent:      h.app.Agent,
		Health:     h.app.registry.health(),
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
		state.Server = h.app.uiServer()
		if err := state.excuse(h.app.uiChannels(r.Context(), q, state.Server)); err != nil {
			return err
		}
	}
	if h.serves[topicEndpoint] {
		page, err := h.topics.ListTopics(r.Context(), broker.TopicListOptions{Limit: uiListed})
		if err = state.excuse(err); err != nil {
			return err
		}
		for _, info := range page.Topics {
			state.Topics = append(state.Topics, uiTopic{info.Name, newTopicState(info)})
		}
	}
	state.Now = time.Now().UTC()
	return writeJSON(w, http.StatusOK, state)
}

// excuse returns an error of the Broker, unless that says that the Broker cannot serve now. Then the state's health says it.
func (s *uiState) excuse(err error) error {
	if err == nil {
		return nil
	}
	reply := httpjson.ErrorOf(err)
	if reply.Status != http.StatusServiceUnavailable {
		return err
	}
	if s.Health == "OK" {
		s.Health = reply.Code
	}
	return nil
}

// uiServer returns the totals of the whole server.
func (a *App) uiServer() *uiServer {
	stats := broker.StatsOf(a.broker)
	server := &uiServer{
		Channels:      stats.Channels,
		MaxChannels:   a.MaxChannels,
		Readers:       stats.Readers,
		MaxReaders:    a.MaxReaders,
		HeldProducers: stats.HeldProducers,
		Pending:       stats.Pending,
		InFlight:      stats.InFlight,
		UsedBytes:     stats.BufferedBytes,
		MaxMemory:     a.MaxMemory,
		Accepted:      stats.Accepted,
		Sent:          stats.Sent,
		Settled:       stats.Settled,
		Undelivered:   stats.AllUndelivered(),
		Refused:       stats.RefusedFull + stats.RefusedMemory,
		Topics:        stats.Topics,
		Nodes:         uiNodes(a.broker),
	}
	if m, ok := a.broker.(broker.MemoryUser); ok {
		server.UsedBytes = m.MemoryUsed()
	}
	if d, ok := a.broker.(broker.Drainer); ok {
		if s := d.DrainState(); s.Active {
			server.Drain = &uiDrain{s.Channels, s.Remaining}
		}
	}
	return server
}

// uiChannels adds the channels that a request asks for.
func (a *App) uiChannels(ctx context.Context, q uiQuery, server *uiServer) error {
	page, err := a.broker.List(ctx, q.list)
	if err != nil {
		return err
	}
	server.List = make([]uiChannel, 0, len(page.Channels))
	for _, c := range page.Channels {
		server.List = append(server.List, newUIChannel(c))
	}
	server.More = page.Next != ""
	for _, name := range q.names {
		info, err := a.broker.Find(ctx, name)
		if err != nil && !errors.Is(err, broker.ErrNotFound) {
			return err
		}
		server.Asked = append(server.Asked, nil)
		if err == nil {
			c := newUIChannel(info)
			server.Asked[len(server.Asked)-1] = &c
		}
	}
	return nil
}

func newUIChannel(c broker.ChannelInfo) uiChannel {
	return uiChannel{
		ID:            c.ID,
		Connected:     c.Connected,
		Pending:       c.Pending,
		InFlight:      c.InFlight,
		HeldProducers: c.HeldProducers,
		Created:       c.Created.UTC(),
		LastRead:      httpjson.TimeOrNull(c.LastRead),
		Expires:       httpjson.TimeOrNull(c.Expires),
	}
}

// uiNodes returns the servers that share the Broker's store, or nil if it has none.
func uiNodes(b broker.Broker) []uiNode {
	statser, ok := b.(broker.StoreStatser)
	if !ok {
		return nil
	}
	var nodes []uiNode
	for _, n := range statser.StoreStats().Nodes {
		nodes = append(nodes, uiNode{n.ID, n.Self, n.Host, n.Process, n.Readers, n.Seen.UTC()})
	}
	return nodes
}
