package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

// Register registers the API. The function returns the view of the app megaphone of the configuration that is active.
func Register(view func(app any) View) { caddy.RegisterModule(API{view}) }

// A View is what the API sees of a configuration.
type View struct {
	Broker broker.Broker
	// Agent is the first part of the addresses that the server creates.
	Agent  string
	Limits broker.Limits
	// InspectMessages says whether the API may show messages.
	InspectMessages bool
	// Healthy says whether new clients are welcome.
	Healthy bool
}

// API serves operators, below /megaphone/ on Caddy's admin endpoint: docs/admin.md describes it. Secret
// addresses are neither shown in full nor taken from a path, which Caddy logs: channels have an id here.
//
// Caddy keeps one instance for as long as its admin server lives, which may be longer or shorter than the
// configuration that it came with. So it has no state, and looks for the running app at each request.
type API struct{ view func(app any) View }

// CaddyModule returns the Caddy module information.
func (api API) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.megaphone", New: func() caddy.Module { return &API{api.view} }}
}

// Routes implements [caddy.AdminRouter].
func (api API) Routes() []caddy.AdminRoute {
	patterns := map[string]map[string]endpoint{
		"/megaphone/channels":      {http.MethodGet: list, http.MethodDelete: withoutQuery(deleteMany)},
		"/megaphone/channels/{id}": {http.MethodGet: show, http.MethodDelete: withoutQuery(deleteOne)},
		"/megaphone/lookup":        {http.MethodPost: withoutQuery(lookup)},
		"/megaphone/stats":         {http.MethodGet: withoutQuery(stats)},
		"/megaphone/drain": {
			http.MethodGet: withoutQuery(drainState), http.MethodPost: withoutQuery(drain),
			http.MethodDelete: withoutQuery(undrain),
		},
		"/megaphone/health": {http.MethodGet: health}, // some who ask add something that is new each time
		"/megaphone/":       nil,
	}
	routes := make([]caddy.AdminRoute, 0, len(patterns))
	for pattern, methods := range patterns {
		routes = append(routes, caddy.AdminRoute{Pattern: pattern, Handler: api.route(methods)})
	}
	return routes
}

// An endpoint answers a request with the status and the value it returns, as JSON.
type endpoint func(v View, r *http.Request) (status int, reply any, err error)

// route serves one path of the API.
func (api API) route(methods map[string]endpoint) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		serve := methods[r.Method]
		switch {
		case len(methods) == 0:
			return newError(http.StatusNotFound, "no such address: see docs/admin.md for those that there are")
		case serve == nil:
			allowed := strings.Join(slices.Sorted(maps.Keys(methods)), ", ")
			w.Header().Set("Allow", allowed)
			return newError(http.StatusMethodNotAllowed, "this address is for "+allowed+" only")
		}
		// Even while no configuration is active, this does not fail.
		module, err := caddy.ActiveContext().AppIfConfigured("megaphone")
		if err != nil {
			return newError(http.StatusNotFound, "the configuration that runs has no megaphone")
		}
		status, reply, err := serve(api.view(module), r)
		if err != nil {
			return errorOf(err)
		}
		body, err := json.Marshal(reply)
		if err != nil {
			return err
		}
		httpjson.Write(w, status, append(body, '\n'))
		return nil
	}
}

func newError(status int, message string) error {
	return caddy.APIError{HTTPStatus: status, Err: errors.New(message), Message: message}
}

// errorOf gives an error of the broker its status.
func errorOf(err error) error {
	if errors.Is(err, broker.ErrCursor) {
		return newError(http.StatusBadRequest, err.Error())
	}
	if _, ok := errors.AsType[caddy.APIError](err); ok {
		return err
	}
	e := httpjson.ErrorOf(err)
	return caddy.APIError{HTTPStatus: e.Status, Err: err, Message: e.Message}
}

// An Channel is what the admin API shows of a channel.
type Channel struct {
	ID        string     `json:"id"`
	Agent     string     `json:"agent"`
	Producer  string     `json:"producer"` // the beginning of the address
	Consumer  string     `json:"consumer"` // the beginning of the address
	Connected bool       `json:"connected"`
	Pending   int        `json:"pending"`
	InFlight  int        `json:"inFlight"`
	Created   time.Time  `json:"created"`
	LastRead  *time.Time `json:"lastRead"` // null: never
	Expires   *time.Time `json:"expires"`  // null: not while it is read

	Messages     []Message `json:"messages,omitempty"`
	MoreMessages bool      `json:"moreMessages,omitempty"` // they would have been too large
}

// An Message is a message that a channel holds.
type Message struct {
	InFlight bool            `json:"inFlight"`
	Message  json.RawMessage `json:"message"` // as readers get it
}

func newChannel(c broker.ChannelInfo) Channel {
	agent, _, _ := strings.Cut(c.Consumer, ".")
	return Channel{
		ID: c.ID, Agent: agent, Producer: broker.RedactAddress(c.Producer), Consumer: broker.RedactAddress(c.Consumer),
		Connected: c.Connected, Pending: c.Pending, InFlight: c.InFlight,
		Created: c.Created.UTC(), LastRead: httpjson.TimeOrNull(c.LastRead), Expires: httpjson.TimeOrNull(c.Expires),
	}
}

// Page is the reply with a page of the list of channels.
type Page struct {
	Channels []Channel `json:"channels"`
	Next     string    `json:"next,omitempty"` // the cursor of the next page
}

// list lists channels, page by page.
func list(v View, r *http.Request) (int, any, error) {
	o, err := parseListOptions(r.URL)
	if err != nil {
		return 0, nil, newError(http.StatusBadRequest, err.Error())
	}
	page, err := v.Broker.List(r.Context(), o)
	if err != nil {
		return 0, nil, err
	}
	reply := Page{Channels: make([]Channel, 0, len(page.Channels)), Next: page.Next}
	for _, c := range page.Channels {
		reply.Channels = append(reply.Channels, newChannel(c))
	}
	return http.StatusOK, reply, nil
}

// show shows one channel, and on demand what it holds.
func show(v View, r *http.Request) (int, any, error) {
	info, err := findByID(v, r)
	if err != nil {
		return 0, nil, err
	}
	channel := newChannel(info)
	limit, err := parseMessages(v, r)
	if err != nil {
		return 0, nil, err
	}
	if limit > 0 {
		ms, err := v.Broker.Peek(r.Context(), info.Consumer, limit)
		if err != nil {
			return 0, nil, err
		}
		size := 0
		for i, m := range ms {
			// One is always shown, or nothing would be seen of a channel with large ones.
			if size += len(m.JSON()); size > maxShown && i > 0 {
				channel.MoreMessages = true
				break
			}
			channel.Messages = append(channel.Messages, Message{i < info.InFlight, m.JSON()})
		}
	}
	return http.StatusOK, channel, nil
}

// findByID finds the channel of a request's path.
func findByID(v View, r *http.Request) (broker.ChannelInfo, error) {
	id := r.PathValue("id")
	if strings.Contains(id, ".") {
		return broker.ChannelInfo{}, newError(http.StatusBadRequest,
			"an address is a secret and does not belong into a path, which is logged: send it to /megaphone/lookup")
	}
	return v.Broker.Find(r.Context(), id)
}

// deleteOne deletes one channel.
func deleteOne(v View, r *http.Request) (int, any, error) {
	info, err := findByID(v, r)
	if err != nil {
		return 0, nil, err
	}
	if err := v.Broker.Delete(r.Context(), info.Consumer); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, Deleted{Deleted: 1, NotFound: []string{}}, nil
}

// Deleted is the reply to a deletion.
type Deleted struct {
	Deleted  int      `json:"deleted"`
	NotFound []string `json:"notFound"` // as they were given
}

// deleteMany deletes the channels that ids or addresses name.
func deleteMany(v View, r *http.Request) (int, any, error) {
	channels, err := parseNames(r)
	if err != nil {
		return 0, nil, err
	}
	reply := Deleted{NotFound: []string{}}
	for _, name := range channels {
		info, err := v.Broker.Find(r.Context(), name)
		if err == nil {
			err = v.Broker.Delete(r.Context(), info.Consumer)
		}
		switch {
		case err == nil:
			reply.Deleted++
		case errors.Is(err, broker.ErrNotFound):
			reply.NotFound = append(reply.NotFound, name)
		default:
			return 0, nil, err
		}
	}
	return http.StatusOK, reply, nil
}

// Found is the reply to a look-up.
type Found struct {
	Channels []Channel `json:"channels"`
	NotFound []string  `json:"notFound"` // as they were given
}

// lookup shows the channels that ids or addresses name.
func lookup(v View, r *http.Request) (int, any, error) {
	channels, err := parseNames(r)
	if err != nil {
		return 0, nil, err
	}
	reply := Found{Channels: []Channel{}, NotFound: []string{}}
	for _, name := range channels {
		info, err := v.Broker.Find(r.Context(), name)
		switch {
		case err == nil:
			reply.Channels = append(reply.Channels, newChannel(info))
		case errors.Is(err, broker.ErrNotFound):
			reply.NotFound = append(reply.NotFound, name)
		default:
			return 0, nil, err
		}
	}
	return http.StatusOK, reply, nil
}

// MaxBody is the largest body that the admin API reads, in bytes.
const MaxBody = 1 << 20

// parseBody reads a request's body into v. No body leaves v as it is. A field that v does not have is an error, for
// what is misspelled must not be done with something else.
func parseBody(r *http.Request, v any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	switch {
	case err != nil:
		return newError(http.StatusBadRequest, "the body ended early")
	case len(body) > MaxBody:
		return newError(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", MaxBody))
	case len(body) == 0:
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return newError(http.StatusBadRequest, "the body is not as expected: "+strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return newError(http.StatusBadRequest, "the body is not as expected: there is something after the JSON value")
	}
	return nil
}

// parseNames reads the list of channels of a request's body.
func parseNames(r *http.Request) ([]string, error) {
	var body struct {
		Channels []string `json:"channels"`
	}
	if err := parseBody(r, &body); err != nil {
		return nil, err
	}
	if body.Channels == nil {
		return nil, newError(http.StatusBadRequest, `the body must be {"channels":[…]}, with ids or addresses`)
	}
	slices.Sort(body.Channels)
	return slices.Compact(body.Channels), nil
}
