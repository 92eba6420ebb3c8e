package megaphone

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/caddyserver/caddy/v2"
)

const (
	// standardPage is how many channels a page of the list has where the request does not say.
	standardPage = 100
	maxPage      = 1000
	// maxPeek is how many messages of a channel are shown at most.
	maxPeek = 1000
)

// listParameters are the parameters of the list of channels, and what each does.
var listParameters = map[string]func(o *ListOptions, value string) error{
	"cursor": func(o *ListOptions, value string) error {
		o.After = value
		return nil
	},
	"limit": func(o *ListOptions, value string) (err error) {
		o.Limit, err = parseNumber(value, 1, maxPage)
		return err
	},
	"agent": func(o *ListOptions, value string) error {
		o.Agent = value
		return checkAgent(value)
	},
	"connected": func(o *ListOptions, value string) error {
		if value != "true" && value != "false" {
			return fmt.Errorf("%q is neither true nor false", value)
		}
		connected := value == "true"
		o.Connected = &connected
		return nil
	},
	"min_age": func(o *ListOptions, value string) error {
		age, err := caddy.ParseDuration(value)
		if err != nil || age < 0 {
			return fmt.Errorf("%q is no duration: use for example 30s, 10m or 1d", value)
		}
		o.MinAge = age
		return nil
	},
	"min_pending": func(o *ListOptions, value string) (err error) {
		o.MinPending, err = parseNumber(value, 0, 1<<30)
		return err
	},
}

// parseListOptions reads which channels are to be listed. A parameter that it does not know is an error: a filter
// that is misspelled must not end in a list of everything, which may be deleted next.
func parseListOptions(query url.Values) (ListOptions, error) {
	o := ListOptions{Limit: standardPage}
	for name, values := range query {
		parse, ok := listParameters[name]
		if !ok {
			return o, fmt.Errorf("there is no parameter %q: there are %s", name, names(listParameters))
		}
		if len(values) > 1 {
			return o, fmt.Errorf("%s is there more than once", name)
		}
		if err := parse(&o, values[0]); err != nil {
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
func parseMessages(a *App, r *http.Request) (int, error) {
	query := r.URL.Query()
	if !query.Has("messages") {
		return 0, nil
	}
	n, err := parseNumber(query.Get("messages"), 0, maxPeek)
	if err != nil {
		return 0, adminError(http.StatusBadRequest, "messages: "+err.Error())
	}
	if n > 0 && !a.InspectMessages {
		return 0, adminError(http.StatusForbidden,
			"messages are not shown, unless the configuration says inspect_messages")
	}
	return n, nil
}
