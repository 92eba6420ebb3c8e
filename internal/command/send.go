package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
	"github.com/caddy-megaphone/megaphone/internal/jsontext"
)

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

If a channel is full, send waits as long as the server lets it.

What it prints at the end counts the messages that the server has taken, also
when it is interrupted or refused halfway. If it cannot know that, because the
connection was lost or the server takes too long when it is interrupted, it says
of how many messages; with --json the field "unknown" has their number.`,
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

// A sendFailure is a message that was not written, and why.
type sendFailure struct {
	Channel string `json:"channel"`
	Index   int    `json:"index"`
	Reason  string `json:"reason"`
}

// A sendResult is what a stream of writes is answered with (protocol.md 2.6).
type sendResult struct {
	Written       int           `json:"written"`
	Failures      []sendFailure `json:"failures"`
	FailuresTotal int           `json:"failuresTotal"`

	Unknown int `json:"unknown,omitempty"` // messages of which it is not known whether they were written
}

// add adds what became of lines that begin with the line of a number.
func (r *sendResult) add(part sendResult, first int) {
	r.Written += part.Written
	r.FailuresTotal += part.FailuresTotal
	for _, f := range part.Failures[:min(len(part.Failures), broker.MaxIngestFailures-len(r.Failures))] {
		f.Index += first
		r.Failures = append(r.Failures, f)
	}
}

func runSend(cmd *cobra.Command, args []string) error {
	s, err := newSite(cmd)
	if err != nil {
		return err
	}
	flags, result := cmd.Flags(), sendResult{Failures: []sendFailure{}}
	text, key := flag(flags.GetBool, "text"), flag(flags.GetString, "key")
	if key != "" && len(args) != 3 {
		return errors.New("--key is for one message: give one body")
	}
	switch {
	case flag(flags.GetBool, "ndjson"):
		asItIs := func(line []byte) []byte { return append(line, '\n') }
		err = s.stream(cmd.Context(), readBatches(cmd.InOrStdin(), asItIs), &result)
	case len(args) > 2:
		err = s.sendAll(cmd.Context(), args[0], args[1], args[2:], text, key, &result)
	default:
		head := append([]byte(`{"channel":`), jsontext.AppendString(nil, args[0])...)
		head = append(append(head, `,"streamId":`...), jsontext.AppendString(nil, args[1])...)
		envelope := func(line []byte) []byte { return envelopeOf(head, line, text) }
		err = s.stream(cmd.Context(), readBatches(cmd.InOrStdin(), envelope), &result)
	}
	switch {
	case err == nil:
		err = result.err()
	case result.Unknown > 0:
		err = fmt.Errorf("%w; it is not known whether the last %d messages were written", err, result.Unknown)
	}
	if flag(flags.GetBool, "json") {
		return errors.Join(printJSON(cmd.OutOrStdout(), result), err)
	}
	for _, f := range result.Failures {
		fmt.Fprintf(cmd.ErrOrStderr(), "line %d for %s: %s\n", f.Index+1, printable(broker.RedactAddress(f.Channel)), printable(f.Reason))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "sent %d\n", result.Written)
	return err
}

// sendAll writes messages one after the other, until one is not written.
func (s *site) sendAll(ctx context.Context, producer, streamID string, bodies []string, text bool, key string, result *sendResult) error {
	for _, body := range bodies {
		err := s.send(ctx, producer, streamID, body, text, key)
		if _, ok := errors.AsType[*uncertainError](err); ok {
			result.Unknown = 1
		}
		if err != nil {
			return err
		}
		result.Written++
	}
	return nil
}

// send writes one message.
func (s *site) send(ctx context.Context, producer, streamID, body string, text bool, key string) error {
	header := http.Header{"Content-Type": httpjson.JSONType}
	if key != "" {
		header.Set("Idempotency-Key", key)
	}
	content := []byte(body)
	if text {
		content = jsontext.AppendString(nil, body)
	} else if !json.Valid(content) {
		return fmt.Errorf("%s is not JSON: quote it as JSON, or use --text", body)
	}
	path := "/write/" + url.PathEscape(producer) + "/" + url.PathEscape(streamID)
	_, err := s.text(ctx, http.MethodPost, path, header, bytes.NewReader(content))
	return err
}

// envelopeOf makes a line a message. One that is not JSON becomes a message that the server refuses, so that it is
// told among the failures by its number; a blank one stays a blank one, which the server counts and passes over.
func envelopeOf(head, line []byte, text bool) []byte {
	envelope := bytes.Clone(head)
	switch {
	case text:
		envelope = append(envelope, `,"body":`...)
		envelope = jsontext.AppendString(envelope, string(line))
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
	return &exitError{status, message}
}
