package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/caddy-megaphone/megaphone/broker"
	megaphone "github.com/caddy-megaphone/megaphone/client/go"
	"github.com/caddy-megaphone/megaphone/internal/jsontext"
)

func sendCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "send <producer address> <stream id> [<body>...] | --ndjson",
		Short: "Sends messages",
		Long: `Sends messages to a channel, as a backend does.

Each body is one JSON value. With --text, a body is any text, and goes out as a
JSON string. Without a body, send reads standard input: each line is a body, and
goes out as soon as it arrives.

With --ndjson and no other arguments, send passes standard input on as it is:
lines {"channel":…,"streamId":…,"body":…} for any number of channels.

If a channel is full, send waits as long as the server lets it.

At the end, send prints how many messages the server has accepted, even if it is
interrupted or refused halfway. If the connection is lost, or the server takes
too long to answer an interrupted send, the outcome of some messages is unknown.
send then says of how many; with --json, the number is in the field "unknown".`,
		Example: `  $ caddy megaphone send $PRODUCER news '{"title":"Hello"}'
  $ caddy megaphone send --text $PRODUCER chat "Hello, world"
  $ caddy megaphone send --merge replace $PRODUCER price 17
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
	cmd.Flags().Bool("text", false, "Treat bodies as text, and send them as JSON strings")
	cmd.Flags().Bool("ndjson", false, "Send the lines of standard input as they are")
	cmd.MarkFlagsMutuallyExclusive("text", "ndjson")
	cmd.Flags().String("key", "", "Idempotency key of the message: sending it again has no effect")
	cmd.MarkFlagsMutuallyExclusive("key", "ndjson")
	cmd.Flags().String("merge", "", "What becomes of the newest message of the stream if it was not sent yet: \"replace\" or \"append\"")
	cmd.MarkFlagsMutuallyExclusive("merge", "ndjson")
	addJSONFlag(cmd, "Print the result as JSON")
	addSiteFlags(cmd)
	return cmd
}

// A sendResult is the server's reply to a streamed ingest, or the sum of several.
type sendResult struct {
	megaphone.IngestResult

	// Unknown is how many messages may or may not have been written.
	Unknown int `json:"unknown,omitempty"`
}

// add adds the result of a request. first is how many lines earlier requests had. add adds it to the index of each
// failure, so that indexes count the lines of the whole input. It keeps at most [broker.MaxIngestFailures] failures.
func (r *sendResult) add(part megaphone.IngestResult, first int) {
	r.Written += part.Written
	r.FailuresTotal += part.FailuresTotal
	for _, f := range part.Failures[:min(len(part.Failures), broker.MaxIngestFailures-len(r.Failures))] {
		f.Index += first
		r.Failures = append(r.Failures, f)
	}
}

// err returns the error for messages that were not written, or nil if there are none. Their worst reason decides the
// exit status.
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
		case "TIMEOUT", "SKIPPED", "LIMIT_REACHED", "CLOSED", "STARTING", "STORAGE_UNAVAILABLE": // as in httpError
		default:
			return errors.New(message)
		}
	}
	return &exitError{status, message}
}

func runSend(cmd *cobra.Command, args []string) error {
	s, err := newSite(cmd)
	if err != nil {
		return err
	}
	result := sendResult{IngestResult: megaphone.IngestResult{Failures: []megaphone.Failure{}}}
	flags := cmd.Flags()
	text, key, merge := flag(flags.GetBool, "text"), flag(flags.GetString, "key"), flag(flags.GetString, "merge")
	if _, ok := broker.ParseMerge(merge); !ok && merge != "" {
		return errors.New("--merge is replace or append")
	}
	if key != "" && len(args) != 3 {
		return errors.New("--key needs exactly one body")
	}
	var passed atomic.Int64
	stop := showInputProgress(cmd, func() string { return humanize.Comma(passed.Load()) + " messages sent" })
	defer stop()
	sendInput := func(encode func(line []byte) []byte) error {
		input := &lineSender{site: s, batches: readBatches(cmd.InOrStdin(), encode), result: &result, passed: &passed}
		return input.send(cmd.Context())
	}
	switch {
	case flag(flags.GetBool, "ndjson"):
		err = sendInput(func(line []byte) []byte { return append(line, '\n') })
	case len(args) > 2:
		w := &messageWriter{site: s, producer: args[0], streamID: args[1], text: text, key: key, merge: merge, passed: &passed}
		err = w.writeAll(cmd.Context(), args[2:], &result)
	default:
		err = sendInput(envelopeEncoder(args[0], args[1], merge, text))
	}
	stop()
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
		target := broker.RedactAddress(f.Channel)
		if f.Topic != "" {
			target = "the topic " + f.Topic
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "line %d for %s: %s\n", f.Index+1, printable(target), printable(f.Reason))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "sent %d\n", result.Written)
	return err
}

// A messageWriter writes messages one at a time, each in a request of its own.
type messageWriter struct {
	site               *megaphone.Client
	producer, streamID string
	text               bool   // bodies are text, not JSON
	key                string // the idempotency key, or empty
	merge              string // how the messages are merged, or empty
	passed             *atomic.Int64
}

// writeAll writes messages until one fails. It adds to the result how many the server has accepted, and whether the
// outcome of the last one is unknown.
func (w *messageWriter) writeAll(ctx context.Context, bodies []string, result *sendResult) error {
	for _, body := range bodies {
		err := w.write(ctx, body)
		if isUncertain(err) {
			result.Unknown = 1
		}
		if err != nil {
			return err
		}
		result.Written++
		w.passed.Add(1)
	}
	return nil
}

// write writes one message.
func (w *messageWriter) write(ctx context.Context, body string) error {
	content := json.RawMessage(body)
	if w.text {
		content = jsontext.AppendString(nil, body)
	} else if !json.Valid(content) {
		return fmt.Errorf("%s is not JSON: quote it as JSON, or use --text", body)
	}
	return siteError(w.site.Write(ctx, megaphone.Message{Channel: w.producer, StreamID: w.streamID, Body: content, Key: w.key, Merge: w.merge}))
}

// envelopeEncoder returns a function that makes a message of a line, for one stream of one channel. merge says how the messages
// are merged; it may be empty. If text is set, every line is the text of a JSON string. Otherwise every line is JSON:
//   - A line that is not JSON becomes a message without a body. The server refuses it, so its number is among the failures.
//   - A blank line stays blank. The server counts it as a line, and ignores it.
func envelopeEncoder(producer, streamID, merge string, text bool) func(line []byte) []byte {
	head := append([]byte(`{"channel":`), jsontext.AppendString(nil, producer)...)
	head = append(append(head, `,"streamId":`...), jsontext.AppendString(nil, streamID)...)
	if merge != "" {
		head = append(head, `,"merge":"`+merge+`"`...)
	}
	return func(line []byte) []byte {
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
}
