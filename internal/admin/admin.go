// Package admin serves the admin API: requests of operators below /megaphone/ on Caddy's admin endpoint
// (docs/admin.md).
//
// It knows the contract of package broker, Caddy's admin endpoint, and package httpjson. It knows nothing of sites, of
// the app's settings beyond [View], or of how a Broker keeps its channels. The exported types are the JSON of replies,
// which package command decodes.
package admin

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

// Register registers the API as a Caddy module. Call it once, at the start of the process.
//
// view gets the running app megaphone and returns what the API may see of it. Each request calls view, at any time and
// in any goroutine, so view must be safe for concurrent use. It is not called while no configuration has the app.
func Register(view func(app any) View) { caddy.RegisterModule(api{view}) }

// A View is what the API sees of the running configuration, during one request.
type View struct {
	// Broker keeps the channels. Only a [broker.Drainer] can be drained, only a [broker.Statser] has totals, and
	// only [broker.Topics] has topics.
	Broker broker.Broker
	// Agent is the first part of the addresses that the server creates.
	Agent string
	// Limits are those of the configuration.
	Limits broker.Limits
	// InspectMessages says whether the API may show messages.
	InspectMessages bool
	// CloseCode returns the code with which a client has closed its last WebSocket on the channel of a consumer address. It
	// returns 0 if the code was a usual one, if there was none, and if it is no longer known.
	CloseCode func(consumer string) int
	// Health is "OK" if new clients are welcome, and otherwise says why they are not.
	Health string
}

// api is the Caddy module. It never shows a secret address in full, and never takes one from a path, because Caddy logs
// paths. Instead, each channel has an id.
//
// Caddy keeps one instance as long as its admin server lives. That may be longer or shorter than the life of the
// configuration that the instance came with. So api has no state, and looks up the running app for each request.
type api struct{ view func(app any) View }

// CaddyModule returns the Caddy module information.
func (a api) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.megaphone", New: func() caddy.Module { return &api{a.view} }}
}

// Routes implements [caddy.AdminRouter].
func (a api) Routes() []caddy.AdminRoute {
	patterns := map[string]map[string]endpoint{
		"/megaphone/channels":               {http.MethodGet: list, http.MethodDelete: withoutQuery(deleteMany)},
		"/megaphone/channels/{id}":          {http.MethodGet: show, http.MethodDelete: withoutQuery(deleteOne)},
		"/megaphone/topics":                 {http.MethodGet: listTopics},
		"/megaphone/topics/{topic}":         {http.MethodGet: ofTopic(showTopic)},
		"/megaphone/topics/{topic}/join":    {http.MethodPost: ofTopic(joinTopic)},
		"/megaphone/topics/{topic}/leave":   {http.MethodPost: ofTopic(leaveTopic)},
		"/megaphone/topics/{topic}/publish": {http.MethodPost: ofTopic(publish)},
		"/megaphone/topics/{topic}/close":   {http.MethodPost: ofTopic(closeTopic)},
		"/megaphone/lookup":                 {http.MethodPost: withoutQuery(lookup)},
		"/megaphone/stats":                  {http.MethodGet: withoutQuery(stats)},
		"/megaphone/drain": {
			http.MethodGet: withoutQuery(drainState), http.MethodPost: withoutQuery(drain),
			http.MethodDelete: withoutQuery(undrain),
		},
		"/megaphone/backup": {http.MethodPost: withoutQuery(backup)},
		"/megaphone/health": {http.MethodGet: health}, // with any query: some health checks add a new one each time
		"/megaphone/":       nil,
	}
	routes := make([]caddy.AdminRoute, 0, len(patterns))
	for pattern, methods := range patterns {
		routes = append(routes, caddy.AdminRoute{Pattern: pattern, Handler: a.route(methods)})
	}
	return routes
}

// DocsURL is the page of the API on the web.
const DocsURL = "https://github.com/caddy-megaphone/megaphone/blob/main/docs/admin.md"

// An endpoint serves one kind of request. It returns the status of the reply, and the value that is the reply's JSON.
type endpoint func(v View, r *http.Request) (status int, reply any, err error)

// route serves one path of the API. Without any methods, it serves paths that do not exist.
func (a api) route(methods map[string]endpoint) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		serve := methods[r.Method]
		switch {
		case len(methods) == 0:
			return newError(http.StatusNotFound, "no such path: "+DocsURL+" lists all paths")
		case serve == nil:
			allowed := strings.Join(slices.Sorted(maps.Keys(methods)), ", ")
			w.Header().Set("Allow", allowed)
			return newError(http.StatusMethodNotAllowed, "this path allows only "+allowed)
		}
		// ActiveContext works even while no configuration is active.
		app, err := caddy.ActiveContext().AppIfConfigured("megaphone")
		if err != nil {
			return newError(http.StatusNotFound, "the running configuration has no megaphone: no site has the directive, "+
				"and the global options do not have it either")
		}
		status, reply, err := serve(a.view(app), r)
		if err != nil {
			return withStatus(err)
		}
		body, err := json.Marshal(reply)
		if err != nil {
			return err
		}
		httpjson.Write(w, status, append(body, '\n'))
		return nil
	}
}

// newError returns an error that Caddy sends with this status and message.
func newError(status int, message string) error {
	return caddy.APIError{HTTPStatus: status, Err: errors.New(message), Message: message}
}

// withStatus gives an error of an endpoint its status, unless it has one.
func withStatus(err error) error {
	if errors.Is(err, broker.ErrCursor) {
		return newError(http.StatusBadRequest, err.Error())
	}
	if _, ok := errors.AsType[caddy.APIError](err); ok {
		return err
	}
	e := httpjson.ErrorOf(err)
	return caddy.APIError{HTTPStatus: e.Status, Err: err, Message: e.Message}
}
