package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/jsontext"
)

// parseQuery reads a query, in which each of the known parameters may appear once. An unknown parameter is an error:
// otherwise a misspelled filter would list all channels, and the operator might delete those next.
func parseQuery(u *url.URL, known ...string) (map[string]string, error) {
	all, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("the query is malformed: write % as %25 and ; as %3B")
	}
	parameters := make(map[string]string, len(all))
	for name, values := range all {
		switch {
		case len(known) == 0:
			return nil, fmt.Errorf("unknown parameter %q: this request takes no parameters", name)
		case !slices.Contains(known, name):
			return nil, fmt.Errorf("unknown parameter %q: this request takes %s", name, strings.Join(known, ", "))
		case len(values) > 1:
			return nil, fmt.Errorf("%s appears more than once", name)
		}
		parameters[name] = values[0]
	}
	return parameters, nil
}

// withoutQuery makes an endpoint refuse requests that have a query.
func withoutQuery(serve endpoint) endpoint {
	return func(v View, r *http.Request) (int, any, error) {
		if _, err := parseQuery(r.URL); err != nil {
			return 0, nil, newError(http.StatusBadRequest, err.Error())
		}
		return serve(v, r)
	}
}

// listParameters has the parameters of the list of channels. Each function sets one option.
var listParameters = map[string]func(o *broker.ListOptions, value string) error{
	"cursor": func(o *broker.ListOptions, value string) error {
		o.After = value
		return nil
	},
	"limit": func(o *broker.ListOptions, value string) (err error) {
		o.Limit, err = parseNumber(value, 1, MaxPage)
		return err
	},
	"agent": func(o *broker.ListOptions, value string) error {
		o.Agent = value
		return broker.CheckAgent(value)
	},
	"connected": func(o *broker.ListOptions, value string) error {
		if value != "true" && value != "false" {
			return fmt.Errorf("%q is neither true nor false", value)
		}
		connected := value == "true"
		o.Connected = &connected
		return nil
	},
	"min_age": func(o *broker.ListOptions, value string) error {
		age, err := caddy.ParseDuration(value)
		if err != nil || age < 0 {
			return fmt.Errorf("%q is not a valid duration: use for example 30s, 10m or 1d", value)
		}
		o.MinAge = age
		return nil
	},
	"min_pending": func(o *broker.ListOptions, value string) (err error) {
		o.MinPending, err = parseNumber(value, 0, 1<<30)
		return err
	},
}

// parseListOptions reads which channels a request wants to list.
func parseListOptions(u *url.URL) (broker.ListOptions, error) {
	o := broker.ListOptions{Limit: defaultPage}
	parameters, err := parseQuery(u, slices.Sorted(maps.Keys(listParameters))...)
	if err != nil {
		return o, err
	}
	for name, value := range parameters {
		if err := listParameters[name](&o, value); err != nil {
			return o, fmt.Errorf("%s: %w", name, err)
		}
	}
	return o, nil
}

func parseNumber(value string, least, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%q is not a whole number from %d to %d", value, least, most)
	}
	return n, nil
}

// maxMessages is the most messages of a channel in a reply.
const maxMessages = 1000

// parseMessageLimit reads how many messages of a channel a request wants to see. The default is none.
func parseMessageLimit(v View, r *http.Request) (int, error) {
	parameters, err := parseQuery(r.URL, "messages")
	if err != nil {
		return 0, newError(http.StatusBadRequest, err.Error())
	}
	value, asked := parameters["messages"]
	if !asked {
		return 0, nil
	}
	n, err := parseNumber(value, 0, maxMessages)
	if err != nil {
		return 0, newError(http.StatusBadRequest, "messages: "+err.Error())
	}
	if n > 0 && !v.InspectMessages {
		return 0, newError(http.StatusForbidden, "messages are shown only if the configuration sets inspect_messages")
	}
	return n, nil
}

// MaxBody is the largest request body that the API reads, in bytes.
const MaxBody = 1 << 20

// parseBody decodes a request's body into v. An empty body leaves v as it is. A field that v does not have is an error:
// otherwise a request with a misspelled field would do something else than the operator wants.
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
		return newError(http.StatusBadRequest, "invalid body: "+jsontext.Explain(err))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return newError(http.StatusBadRequest, "invalid body: something follows the JSON value")
	}
	return nil
}

// parseNames reads the ids and addresses in a request's body. It sorts them and drops repeated ones.
func parseNames(r *http.Request) ([]string, error) {
	var body struct {
		Channels jsontext.Strings `json:"channels"`
	}
	if err := parseBody(r, &body); err != nil {
		return nil, err
	}
	return channelNames(body.Channels)
}

// channelNames returns the ids and addresses of a body, sorted and each once.
func channelNames(names []string) ([]string, error) {
	if names == nil {
		return nil, newError(http.StatusBadRequest, `the body must be {"channels":[…]}, with ids or addresses`)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
