package admin

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-megaphone/megaphone/broker"
)

const (
	// standardPage is how many channels a page of the list has where the request does not say.
	standardPage = 100
	MaxPage      = 1000
	// maxPeek is how many messages of a channel are shown at most.
	maxPeek = 1000
	// maxShown is how many bytes of messages are shown at most, beyond the first message.
	maxShown = 16 << 20
)

// parseQuery reads the query of a request, in which each of the known parameters may be once. A parameter that is not
// known is an error: a filter that is misspelled must not end in a list of everything, which may be deleted next.
func parseQuery(u *url.URL, known ...string) (map[string]string, error) {
	all, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("the query is malformed: %w", err)
	}
	parameters := make(map[string]string, len(all))
	for name, values := range all {
		switch {
		case len(known) == 0:
			return nil, fmt.Errorf("there is no parameter %q here, nor any other", name)
		case !slices.Contains(known, name):
			return nil, fmt.Errorf("there is no parameter %q: there are %s", name, strings.Join(known, ", "))
		case len(values) > 1:
			return nil, fmt.Errorf("%s is there more than once", name)
		}
		parameters[name] = values[0]
	}
	return parameters, nil
}

// withoutQuery makes a function refuse requests that have a query.
func withoutQuery(serve endpoint) endpoint {
	return func(v View, r *http.Request) (int, any, error) {
		if _, err := parseQuery(r.URL); err != nil {
			return 0, nil, newError(http.StatusBadRequest, err.Error())
		}
		return serve(v, r)
	}
}

// listParameters are the parameters of the list of channels, and what each does.
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
			return fmt.Errorf("%q is no duration: use for example 30s, 10m or 1d", value)
		}
		o.MinAge = age
		return nil
	},
	"min_pending": func(o *broker.ListOptions, value string) (err error) {
		o.MinPending, err = parseNumber(value, 0, 1<<30)
		return err
	},
}

// parseListOptions reads which channels are to be listed.
func parseListOptions(u *url.URL) (broker.ListOptions, error) {
	o := broker.ListOptions{Limit: standardPage}
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
		return 0, fmt.Errorf("%q is no whole number from %d to %d", value, least, most)
	}
	return n, nil
}

// parseMessages reads how many messages of a channel are to be shown, if any.
func parseMessages(v View, r *http.Request) (int, error) {
	parameters, err := parseQuery(r.URL, "messages")
	if err != nil {
		return 0, newError(http.StatusBadRequest, err.Error())
	}
	value, asked := parameters["messages"]
	if !asked {
		return 0, nil
	}
	n, err := parseNumber(value, 0, maxPeek)
	if err != nil {
		return 0, newError(http.StatusBadRequest, "messages: "+err.Error())
	}
	if n > 0 && !v.InspectMessages {
		return 0, newError(http.StatusForbidden,
			"messages are not shown, unless the configuration says inspect_messages")
	}
	return n, nil
}
