package command

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	megaphone "github.com/caddy-megaphone/megaphone/client/go"
)

// defaultURL is the site that commands use by default: the private one of example.Caddyfile.
const defaultURL = "http://127.0.0.1:3000"

// addSiteFlags adds the flags that say which site to use, and how.
func addSiteFlags(cmd *cobra.Command) {
	cmd.Flags().String("url", "", "URL below which the site serves Megaphone; see \"caddy megaphone --help\" for the default")
	cmd.Flags().StringArrayP("header", "H", nil, "Header field to send with each request, as \"Name: value\"; may be repeated")
	_ = cmd.RegisterFlagCompletionFunc("url", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("header", cobra.NoFileCompletions)
}

// newSite returns a client of the site that the flags or the environment name.
func newSite(cmd *cobra.Command) (*megaphone.Client, error) {
	base, source := flag(cmd.Flags().GetString, "url"), "--url"
	if base == "" {
		base, source = os.Getenv("MEGAPHONE_URL"), "MEGAPHONE_URL"
	}
	if base == "" {
		base = defaultURL
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		// The message does not quote the URL, because even a malformed one may have a password.
		return nil, fmt.Errorf("%s is not a valid URL of a site: use for example %s", source, defaultURL)
	}
	header := http.Header{}
	for _, field := range flag(cmd.Flags().GetStringArray, "header") {
		name, value, ok := strings.Cut(field, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("--header %q does not have the form \"Name: value\"", field)
		}
		header.Add(name, strings.TrimSpace(value))
	}
	return &megaphone.Client{
		URL: base, HTTP: &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()},
		Header: func(context.Context) (http.Header, error) { return header, nil },
	}, nil
}

// siteError returns an error of a site as the error of a command, with its exit status.
func siteError(err error) error {
	if refused, ok := errors.AsType[*megaphone.Error](err); ok {
		return httpError(refused.Status, refused.Message)
	}
	return err
}

// isUncertain reports whether an error leaves open whether the server has done what the request asked for.
func isUncertain(err error) bool { return errors.Is(err, megaphone.ErrUncertain) }
