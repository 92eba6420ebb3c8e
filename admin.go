package megaphone

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

func init() { caddy.RegisterModule(adminAPI{}) }

// adminAPI serves operators, below /megaphone/ on Caddy's admin endpoint: docs/admin.md describes it. Secret
// addresses are neither shown in full nor taken from a path, which Caddy logs: channels have an id here.
//
// Caddy keeps one instance for as long as its admin server lives, which may be longer or shorter than the
// configuration that it came with. So it has no state, and looks for the running app at each request.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.megaphone", New: func() caddy.Module { return new(adminAPI) }}
}

// Routes implements [caddy.AdminRouter].
func (adminAPI) Routes() []caddy.AdminRoute {
	patterns := map[string]map[string]adminFunc{
		"/megaphone/channels":      {http.MethodGet: adminList, http.MethodDelete: withoutQuery(adminDeleteMany)},
		"/megaphone/channels/{id}": {http.MethodGet: adminShow, http.MethodDelete: withoutQuery(adminDelete)},
		"/megaphone/lookup":        {http.MethodPost: withoutQuery(adminLookup)},
		"/megaphone/stats":         {http.MethodGet: withoutQuery(adminStats)},
		"/megaphone/drain": {
			http.MethodGet: withoutQuery(adminDrainState), http.MethodPost: withoutQuery(adminDrain),
			http.MethodDelete: withoutQuery(adminUndrain),
		},
		"/megaphone/health": {http.MethodGet: adminHealth}, // some who ask add something that is new each time
		"/megaphone/":       nil,
	}
	routes := make([]caddy.AdminRoute, 0, len(patterns))
	for pattern, methods := range patterns {
		routes = append(routes, caddy.AdminRoute{Pattern: pattern, Handler: adminRoute(methods)})
	}
	return routes
}

// An adminFunc answers a request with the status and the value it returns, as JSON.
type adminFunc func(a *App, r *http.Request) (status int, reply any, err error)

// adminRoute serves one path of the admin API.
func adminRoute(methods map[string]adminFunc) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		serve := methods[r.Method]
		switch {
		case len(methods) == 0:
			return adminError(http.StatusNotFound, "no such address: see docs/admin.md for those that there are")
		case serve == nil:
			allowed := names(methods)
			w.Header().Set("Allow", allowed)
			return adminError(http.StatusMethodNotAllowed, "this address is for "+allowed+" only")
		}
		// Even while no configuration is active, this does not fail.
		module, err := caddy.ActiveContext().AppIfConfigured("megaphone")
		if err != nil {
			return adminError(http.StatusNotFound, "the configuration that runs has no megaphone")
		}
		status, reply, err := serve(module.(*App), r)
		if err != nil {
			return toAdminError(err)
		}
		body, err := json.Marshal(reply)
		if err != nil {
			return err
		}
		httpjson.Write(w, status, append(body, '\n'))
		return nil
	}
}

func adminError(status int, message string) error {
	return caddy.APIError{HTTPStatus: status, Err: errors.New(message), Message: message}
}

// toAdminError gives an error of the broker its status.
func toAdminError(err error) error {
	if errors.Is(err, broker.ErrCursor) {
		return adminError(http.StatusBadRequest, err.Error())
	}
	if _, ok := errors.AsType[caddy.APIError](err); ok {
		return err
	}
	e := httpjson.ErrorOf(err)
	return caddy.APIError{HTTPStatus: e.Status, Err: err, Message: e.Message}
}

// An adminChannel is what the admin API shows of a channel.
type adminChannel struct {
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

	Messages     []adminMessage `json:"messages,omitempty"`
	MoreMessages bool           `json:"moreMessages,omitempty"` // they would have been too large
}

// An adminMessage is a message that a channel holds.
type adminMessage struct {
	InFlight bool            `json:"inFlight"`
	Message  json.RawMessage `json:"message"` // as readers get it
}

func newAdminChannel(c broker.ChannelInfo) adminChannel {
	agent, _, _ := strings.Cut(c.Consumer, ".")
	return adminChannel{
		ID: c.ID, Agent: agent, Producer: broker.RedactAddress(c.Producer), Consumer: broker.RedactAddress(c.Consumer),
		Connected: c.Connected, Pending: c.Pending, InFlight: c.InFlight,
		Created: c.Created.UTC(), LastRead: timeOrNull(c.LastRead), Expires: timeOrNull(c.Expires),
	}
}

// adminPage is the reply with a page of the list of channels.
type adminPage struct {
	Channels []adminChannel `json:"channels"`
	Next     string         `json:"next,omitempty"` // the cursor of the next page
}

// adminList lists channels, page by page.
func adminList(a *App, r *http.Request) (int, any, error) {
	o, err := parseListOptions(r.URL)
	if err != nil {
		return 0, nil, adminError(http.StatusBadRequest, err.Error())
	}
	page, err := a.broker.List(r.Context(), o)
	if err != nil {
		return 0, nil, err
	}
	reply := adminPage{Channels: make([]adminChannel, 0, len(page.Channels)), Next: page.Next}
	for _, c := range page.Channels {
		reply.Channels = append(reply.Channels, newAdminChannel(c))
	}
	return http.StatusOK, reply, nil
}

// adminShow shows one channel, and on demand what it holds.
func adminShow(a *App, r *http.Request) (int, any, error) {
	info, err := findByID(a, r)
	if err != nil {
		return 0, nil, err
	}
	channel := newAdminChannel(info)
	limit, err := parseMessages(a, r)
	if err != nil {
		return 0, nil, err
	}
	if limit > 0 {
		ms, err := a.broker.Peek(r.Context(), info.Consumer, limit)
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
			channel.Messages = append(channel.Messages, adminMessage{i < info.InFlight, m.JSON()})
		}
	}
	return http.StatusOK, channel, nil
}

// findByID finds the channel of a request's path.
func findByID(a *App, r *http.Request) (broker.ChannelInfo, error) {
	id := r.PathValue("id")
	if strings.Contains(id, ".") {
		return broker.ChannelInfo{}, adminError(http.StatusBadRequest,
			"an address is a secret and does not belong into a path, which is logged: send it to /megaphone/lookup")
	}
	return a.broker.Find(r.Context(), id)
}

// adminDelete deletes one channel.
func adminDelete(a *App, r *http.Request) (int, any, error) {
	info, err := findByID(a, r)
	if err != nil {
		return 0, nil, err
	}
	if err := a.broker.Delete(r.Context(), info.Consumer); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, adminDeleted{Deleted: 1, NotFound: []string{}}, nil
}

// adminDeleted is the reply to a deletion.
type adminDeleted struct {
	Deleted  int      `json:"deleted"`
	NotFound []string `json:"notFound"` // as they were given
}

// adminDeleteMany deletes the channels that ids or addresses name.
func adminDeleteMany(a *App, r *http.Request) (int, any, error) {
	channels, err := parseNames(r)
	if err != nil {
		return 0, nil, err
	}
	reply := adminDeleted{NotFound: []string{}}
	for _, name := range channels {
		info, err := a.broker.Find(r.Context(), name)
		if err == nil {
			err = a.broker.Delete(r.Context(), info.Consumer)
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

// adminFound is the reply to a look-up.
type adminFound struct {
	Channels []adminChannel `json:"channels"`
	NotFound []string       `json:"notFound"` // as they were given
}

// adminLookup shows the channels that ids or addresses name.
func adminLookup(a *App, r *http.Request) (int, any, error) {
	channels, err := parseNames(r)
	if err != nil {
		return 0, nil, err
	}
	reply := adminFound{Channels: []adminChannel{}, NotFound: []string{}}
	for _, name := range channels {
		info, err := a.broker.Find(r.Context(), name)
		switch {
		case err == nil:
			reply.Channels = append(reply.Channels, newAdminChannel(info))
		case errors.Is(err, broker.ErrNotFound):
			reply.NotFound = append(reply.NotFound, name)
		default:
			return 0, nil, err
		}
	}
	return http.StatusOK, reply, nil
}

// maxAdminBody is the largest body that the admin API reads, in bytes.
const maxAdminBody = 1 << 20

// parseAdminBody reads a request's body into v. No body leaves v as it is. A field that v does not have is an error, for
// what is misspelled must not be done with something else.
func parseAdminBody(r *http.Request, v any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxAdminBody+1))
	switch {
	case err != nil:
		return adminError(http.StatusBadRequest, "the body ended early")
	case len(body) > maxAdminBody:
		return adminError(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", maxAdminBody))
	case len(body) == 0:
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return adminError(http.StatusBadRequest, "the body is not as expected: "+strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return adminError(http.StatusBadRequest, "the body is not as expected: there is something after the JSON value")
	}
	return nil
}

// parseNames reads the list of channels of a request's body.
func parseNames(r *http.Request) ([]string, error) {
	var body struct {
		Channels []string `json:"channels"`
	}
	if err := parseAdminBody(r, &body); err != nil {
		return nil, err
	}
	if body.Channels == nil {
		return nil, adminError(http.StatusBadRequest, `the body must be {"channels":[…]}, with ids or addresses`)
	}
	slices.Sort(body.Channels)
	return slices.Compact(body.Channels), nil
}
