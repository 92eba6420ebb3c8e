package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/caddy-megaphone/megaphone/internal/httpjson"
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

// A site is the site to which a command sends its requests.
type site struct {
	base   string
	name   string      // base without a password, for messages
	header http.Header // goes with each request
	client http.Client
}

// newSite returns the site that the flags or the environment name.
func newSite(cmd *cobra.Command) (*site, error) {
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
	s := &site{base: strings.TrimSuffix(base, "/"), name: u.Redacted(), header: http.Header{}}
	for _, field := range flag(cmd.Flags().GetStringArray, "header") {
		name, value, ok := strings.Cut(field, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("--header %q does not have the form \"Name: value\"", field)
		}
		s.header.Add(name, strings.TrimSpace(value))
	}
	return s, nil
}

// A refusalError is an error reply of Megaphone.
type refusalError struct {
	error

	reply []byte // the whole body
}

func (e *refusalError) Unwrap() error { return e.error }

// An uncertainError is an error that leaves open whether the server has done what the request asked for.
type uncertainError struct{ error }

func (e *uncertainError) Unwrap() error { return e.error }

// isUncertain reports whether an error is or wraps an [uncertainError].
func isUncertain(err error) bool {
	_, ok := errors.AsType[*uncertainError](err)
	return ok
}

// A siteRequest is a request to an endpoint of a site.
type siteRequest struct {
	method string
	path   string      // with the query, below the URL of the site
	header http.Header // fields in addition to those of the site; may be nil
	body   io.Reader   // may be nil
}

// do sends a request. Only a reply with a 2xx status and exactly this Content-Type is a success: another server, or a
// site of Caddy without Megaphone, may answer anything with status 200. An error reply of Megaphone is a
// [refusalError]. do marks an error as an [uncertainError] if the server may have done what the request asked for.
func (s *site) do(ctx context.Context, request siteRequest, contentType string) (*http.Response, error) {
	var connected atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	r, err := s.newRequest(traced, request)
	if err != nil {
		return nil, hideURL(err)
	}
	response, err := s.client.Do(r)
	if err != nil {
		err = fmt.Errorf("the site %s is not reachable: %w", s.name, hideURL(err))
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if connected.Load() {
			err = &uncertainError{err}
		}
		return nil, err
	}
	if response.StatusCode < 300 && response.Header.Get("Content-Type") == contentType {
		return response, nil
	}
	defer response.Body.Close()
	return nil, s.replyError(response, request.path)
}

// newRequest builds the HTTP request. A field of the request replaces the site's field of the same name.
func (s *site) newRequest(ctx context.Context, request siteRequest) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, request.method, s.base+request.path, request.body)
	if err != nil {
		return nil, err
	}
	r.Header = s.header.Clone()
	maps.Copy(r.Header, request.header)
	if host := r.Header.Get("Host"); host != "" { // net/http does not send this field of Header
		r.Host = host
		r.Header.Del("Host")
	}
	return r, nil
}

// replyError returns the error for a reply that is not a success.
func (s *site) replyError(response *http.Response, path string) error {
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxReply))
	var reply struct{ Code, Message string }
	if json.Unmarshal(text, &reply) == nil && reply.Code != "" {
		refused := &refusalError{httpError(response.StatusCode, reply.Message), text}
		if response.StatusCode == http.StatusInternalServerError {
			return &uncertainError{refused}
		}
		return refused
	}
	endpoint := strings.SplitN(path, "/", 3)[1]
	err := fmt.Errorf("the site %s does not serve Megaphone's endpoint %s: status %s", s.name, endpoint, response.Status)
	if response.StatusCode >= 500 { // from a proxy, which may have passed the request on
		return &uncertainError{err}
	}
	return err
}

// hideURL returns an error of [http.Client] without the URL, which may have a password.
func hideURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// maxReply is the most bytes that a command reads of a reply that is not a stream.
const maxReply = 16 << 20

// fetch sends a request whose reply is JSON, and returns the reply.
func (s *site) fetch(ctx context.Context, request siteRequest) ([]byte, error) {
	response, err := s.do(ctx, request, httpjson.JSONType)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, &uncertainError{fmt.Errorf("cannot read the reply: %w", err)}
	}
	return reply, nil
}
