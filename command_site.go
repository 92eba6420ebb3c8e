package megaphone

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/caddy-megaphone/megaphone/internal/transport"
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
	header http.Header
	client http.Client
}

func newSite(cmd *cobra.Command) (*site, error) {
	base := flag(cmd.Flags().GetString, "url")
	if base == "" {
		base = os.Getenv("MEGAPHONE_URL")
	}
	if base == "" {
		base = standardURL
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is no URL of a site: use for example %s", base, standardURL)
	}
	s := &site{base: strings.TrimSuffix(base, "/"), header: http.Header{}}
	for _, field := range flag(cmd.Flags().GetStringArray, "header") {
		name, value, ok := strings.Cut(field, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("--header %q is not of the form \"Name: value\"", field)
		}
		s.header.Add(name, strings.TrimSpace(value))
	}
	return s, nil
}

// do sends a request. A reply that is not a success, or of another type, is an error.
func (s *site) do(ctx context.Context, method, path string, header http.Header, body io.Reader, want string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, s.base+path, body)
	if err != nil {
		return nil, err
	}
	r.Header = s.header.Clone()
	maps.Copy(r.Header, header)
	response, err := s.client.Do(r)
	if err != nil {
		// What it says of the URL would tell the address.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, fmt.Errorf("the site %s is not reachable: %w", s.base, err)
	}
	// Another server, or a site of Caddy without Megaphone, may answer anything with status 200.
	if response.StatusCode < 300 && response.Header.Get("Content-Type") == want {
		return response, nil
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	var reply struct{ Code, Message string }
	if json.Unmarshal(text, &reply) != nil || reply.Code == "" {
		endpoint := strings.SplitN(path, "/", 3)[1]
		return nil, fmt.Errorf("%s is not served by Megaphone at %s: status %s", endpoint, s.base, response.Status)
	}
	return nil, httpError(response.StatusCode, reply.Message)
}

// text is like do for a reply of JSON, and returns it.
func (s *site) text(ctx context.Context, method, path string, header http.Header, body io.Reader) ([]byte, error) {
	response, err := s.do(ctx, method, path, header, body, jsonType[0])
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
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
	fmt.Fprintf(table, "producer address\t%s\nconsumer address\t%s\n", created.ProducerAddress, created.ConsumerAddress)
	return table.Flush()
}

func sendCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "send <producer address> <stream id> [<body>...] | --ndjson",
		Short: "Sends messages",
		Long: `Sends messages to a channel, as a backend does.

Each body is one JSON value, or with --text any text, which is sent as a JSON
string. Without a body, each line of standard input is one, and is sent as soon
as it is there.

With --ndjson and no other arguments, standard input is sent as it is: lines
{"channel":…,"streamId":…,"body":…} for any number of channels.

If a channel is full, send waits as long as the server lets it.`,
		Example: `  $ caddy megaphone send $PRODUCER news '{"title":"Hello"}'
  $ caddy megaphone send --text $PRODUCER chat "Hello, world"
  $ tail -f app.log | caddy megaphone send --text $PRODUCER log
  $ caddy megaphone send --ndjson < messages.ndjson`,
		Args: func(cmd *cobra.Command, args []string) error {
			if flag(cmd.Flags().GetBool, "ndjson") {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.MinimumNArgs(2)(cmd, args)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              run(runSend),
	}
	cmd.Flags().Bool("text", false, "Take bodies as text and send them as JSON strings")
	cmd.Flags().Bool("ndjson", false, "Send the lines of standard input as they are")
	cmd.MarkFlagsMutuallyExclusive("text", "ndjson")
	cmd.Flags().String("key", "", "Idempotency key of the one message: to send it again has no effect")
	cmd.MarkFlagsMutuallyExclusive("key", "ndjson")
	addJSONFlag(cmd, "Print the result as JSON")
	addSiteFlags(cmd)
	return cmd
}

// A sendResult is what a stream of writes is answered with (protocol.md 2.6).
type sendResult struct {
	Written       int       `json:"written"`
	Failures      []failure `json:"failures"`
	FailuresTotal int       `json:"failuresTotal"`
}

func runSend(cmd *cobra.Command, args []string) error {
	s, err := newSite(cmd)
	if err != nil {
		return err
	}
	flags, result := cmd.Flags(), sendResult{Failures: []failure{}}
	text, key := flag(flags.GetBool, "text"), flag(flags.GetString, "key")
	if key != "" && len(args) != 3 {
		return errors.New("--key is for one message: give one body")
	}
	switch {
	case flag(flags.GetBool, "ndjson"):
		err = s.stream(cmd.Context(), cmd.InOrStdin(), &result)
	case len(args) > 2:
		for _, body := range args[2:] {
			if err = s.send(cmd.Context(), args[0], args[1], body, text, key); err != nil {
				break
			}
			result.Written++
		}
	default:
		lines, writer := io.Pipe()
		go func() { writer.CloseWithError(envelopes(cmd.InOrStdin(), writer, args[0], args[1], text)) }()
		err = s.stream(cmd.Context(), lines, &result)
		_ = lines.Close() // if not all was read
	}
	if err == nil {
		err = result.err()
	}
	if flag(flags.GetBool, "json") {
		return errors.Join(printJSON(cmd.OutOrStdout(), result), err)
	}
	for _, f := range result.Failures {
		fmt.Fprintf(cmd.ErrOrStderr(), "line %d for %s: %s\n", f.Index+1, RedactAddress(f.Channel), f.Reason)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "sent %d\n", result.Written)
	return err
}

// send writes one message.
func (s *site) send(ctx context.Context, producer, streamID, body string, text bool, key string) error {
	header := http.Header{"Content-Type": jsonType}
	if key != "" {
		header.Set("Idempotency-Key", key)
	}
	content := []byte(body)
	if text {
		content = appendString(nil, body)
	} else if !json.Valid(content) {
		return fmt.Errorf("%s is not JSON: quote it as JSON, or use --text", body)
	}
	path := "/write/" + url.PathEscape(producer) + "/" + url.PathEscape(streamID)
	_, err := s.text(ctx, http.MethodPost, path, header, bytes.NewReader(content))
	return err
}

// stream sends lines, each a message with its channel.
func (s *site) stream(ctx context.Context, lines io.Reader, result *sendResult) error {
	reply, err := s.text(ctx, http.MethodPost, "/write", http.Header{"Content-Type": {transport.NDJSONType}}, io.NopCloser(lines))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(reply, result); err != nil {
		return fmt.Errorf("the reply is not understood: %w", err)
	}
	return nil
}

// envelopes makes each line of r a message for a channel, and passes it on.
func envelopes(r io.Reader, w io.Writer, producer, streamID string, text bool) error {
	head := append([]byte(`{"channel":`), appendString(nil, producer)...)
	head = append(append(head, `,"streamId":`...), appendString(nil, streamID)...)
	for lines := bufio.NewReader(r); ; {
		line, err := lines.ReadBytes('\n')
		ended := errors.Is(err, io.EOF)
		if err != nil && !ended {
			return err
		}
		if !ended || len(line) > 0 {
			if _, err := w.Write(envelopeOf(head, bytes.TrimRight(line, "\r\n"), text)); err != nil {
				return err
			}
		}
		if ended {
			return nil
		}
	}
}

// envelopeOf makes a line a message. One that is not JSON becomes a message that the server refuses, so that it is
// told among the failures by its number; a blank one stays a blank one, which the server counts and passes over.
func envelopeOf(head, line []byte, text bool) []byte {
	envelope := bytes.Clone(head)
	switch {
	case text:
		envelope = append(envelope, `,"body":`...)
		envelope = appendString(envelope, string(line))
	case len(bytes.TrimSpace(line)) == 0:
		return []byte("\n")
	case json.Valid(line):
		envelope = append(envelope, `,"body":`...)
		envelope = append(envelope, line...)
	}
	return append(envelope, "}\n"...)
}

// err is the error for messages that were not written, if any. The worst of their reasons decides the status.
func (r *sendResult) err() error {
	if r.FailuresTotal == 0 {
		return nil
	}
	message := fmt.Sprintf("%d messages were not written", r.FailuresTotal)
	status := exitTryAgain
	for _, f := range r.Failures {
		switch f.Reason {
		case "NOT_FOUND":
			status = exitNotFound
		case "TIMEOUT", "SKIPPED", "LIMIT_REACHED":
		default:
			return errors.New(message)
		}
	}
	return &commandError{status, message}
}
