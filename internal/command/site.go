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
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

// standardURL is the site that commands use where nothing else is said: the private one of example.Caddyfile.
const standardURL = "http://127.0.0.1:3000"

// addSiteFlags adds the flags that say which site is used, and how.
func addSiteFlags(cmd *cobra.Command) {
	cmd.Flags().String("url", "", "URL below which the site serves Megaphone; see \"caddy megaphone --help\" for the default")
	cmd.Flags().StringArrayP("header", "H", nil, "Header field to send with each request, as \"Name: value\"; may be repeated")
	_ = cmd.RegisterFlagCompletionFunc("url", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("header", cobra.NoFileCompletions)
}

// A site is where a command sends its requests.
type site struct {
	base   string
	name   string // base without a password, for messages
	header http.Header
	client http.Client
}

func newSite(cmd *cobra.Command) (*site, error) {
	base, source := flag(cmd.Flags().GetString, "url"), "--url"
	if base == "" {
		base, source = os.Getenv("MEGAPHONE_URL"), "MEGAPHONE_URL"
	}
	if base == "" {
		base = standardURL
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		// Whatever it is, it may have a password.
		return nil, fmt.Errorf("%s is no URL of a site: use for example %s", source, standardURL)
	}
	s := &site{base: strings.TrimSuffix(base, "/"), name: u.Redacted(), header: http.Header{}}
	for _, field := range flag(cmd.Flags().GetStringArray, "header") {
		name, value, ok := strings.Cut(field, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("--header %q is not of the form \"Name: value\"", field)
		}
		s.header.Add(name, strings.TrimSpace(value))
	}
	return s, nil
}

// A refusalError is an error that Megaphone has answered with.
type refusalError struct {
	error

	reply []byte
}

func (e *refusalError) Unwrap() error { return e.error }

// An uncertainError is an error after which it is not known what the server has done.
type uncertainError struct{ error }

func (e *uncertainError) Unwrap() error { return e.error }

// maxReply is how much is read of a reply that is no stream, in bytes.
const maxReply = 16 << 20

// do sends a request. A reply that is not a success, or of another type, is an error.
func (s *site) do(ctx context.Context, method, path string, header http.Header, body io.Reader, want string) (*http.Response, error) {
	var connected atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	r, err := http.NewRequestWithContext(traced, method, s.base+path, body)
	if err != nil {
		return nil, hideURL(err)
	}
	r.Header = s.header.Clone()
	maps.Copy(r.Header, header)
	if host := r.Header.Get("Host"); host != "" { // it is not sent from there
		r.Host = host
		r.Header.Del("Host")
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
	// Another server, or a site of Caddy without Megaphone, may answer anything with status 200.
	if response.StatusCode < 300 && response.Header.Get("Content-Type") == want {
		return response, nil
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxReply))
	var reply struct{ Code, Message string }
	if json.Unmarshal(text, &reply) == nil && reply.Code != "" {
		refused := &refusalError{httpError(response.StatusCode, reply.Message), text}
		if response.StatusCode == http.StatusInternalServerError {
			return nil, &uncertainError{refused}
		}
		return nil, refused
	}
	endpoint := strings.SplitN(path, "/", 3)[1]
	err = fmt.Errorf("%s is not served by Megaphone at %s: status %s", endpoint, s.name, response.Status)
	if response.StatusCode >= 500 { // of a proxy, that may have passed on what it was sent
		err = &uncertainError{err}
	}
	return nil, err
}

// hideURL returns an error of [http.Client] without the URL, which may have a password.
func hideURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// text is like do for a reply of JSON, and returns it.
func (s *site) text(ctx context.Context, method, path string, header http.Header, body io.Reader) ([]byte, error) {
	response, err := s.do(ctx, method, path, header, body, httpjson.JSONType[0])
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, &uncertainError{fmt.Errorf("the reply broke: %w", err)}
	}
	return reply, nil
}

func createCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create [--url <url>] [--json]",
		Short: "Creates a channel",
		Long: `Creates a channel, as a backend does, and prints its two addresses. Both are
secrets. The channel is deleted if nobody reads it for a minute, or as long as
the setting ttl says.`,
		Example: `  $ caddy megaphone create
  $ caddy megaphone create --json --url https://push.internal -H "Authorization: Basic …"`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              run(runCreate),
	}
	addJSONFlag(cmd, "Print the server's reply, which is JSON")
	addSiteFlags(cmd)
	return cmd
}

func runCreate(cmd *cobra.Command, _ []string) error {
	s, err := newSite(cmd)
	if err != nil {
		return err
	}
	reply, err := s.text(cmd.Context(), http.MethodPost, "/create", nil, nil)
	if err != nil {
		return err
	}
	if flag(cmd.Flags().GetBool, "json") {
		return printLine(cmd.OutOrStdout(), reply)
	}
	var created struct{ ProducerAddress, ConsumerAddress string }
	if err := json.Unmarshal(reply, &created); err != nil {
		return fmt.Errorf("the reply is not understood: %w", err)
	}
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "producer address\t%s\nconsumer address\t%s\n", printable(created.ProducerAddress), printable(created.ConsumerAddress))
	return table.Flush()
}
