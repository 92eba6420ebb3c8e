package command

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

func tailCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tail <consumer address> [--after <event id>] [--count <messages>] [--json]",
		Short: "Reads a channel and prints its messages",
		Long: `Reads a channel as its consumer, and prints each message as it arrives: the time
at which the server accepted it, the stream, and the body. With --json, it
prints each line as the server sends it.

tail takes the channel over from its present reader. That reader does not get
what tail prints. tail reconnects, follows a cursor, and prints each message
once, until it is interrupted or the channel is gone (exit status 4).`,
		Example: `  $ caddy megaphone tail main.r5Fq2BmN3vX8sW1zK7pQ0g
  $ caddy megaphone tail --json --count 1 $CONSUMER | jq .body`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              run(runTail),
	}
	cmd.Flags().String("after", "", "Id of the last event that you have: begin after it")
	cmd.Flags().Int("count", 0, "End after this many messages; 0 means never")
	addJSONFlag(cmd, "Print the lines as the server sends them")
	addSiteFlags(cmd)
	return cmd
}

// A follower reads a channel, with as many reads as it takes, and prints the messages.
type follower struct {
	site     *site
	consumer string
	after    string // the last event that was printed
	left     int    // how many messages to print from now on; negative means any number
	print    func(event tailEvent, line []byte) error
	warn     func(format string, args ...any)

	reached bool // a read has begun at least once
}

// A tailEvent is a line of a read (protocol.md 1.6).
type tailEvent struct {
	SID  string          `json:"sid"`
	EID  string          `json:"eid"`
	TS   time.Time       `json:"ts"`
	Body json.RawMessage `json:"body"`
}

func runTail(cmd *cobra.Command, args []string) error {
	s, err := newSite(cmd)
	if err != nil {
		return err
	}
	out, flags := cmd.OutOrStdout(), cmd.Flags()
	f := &follower{
		site:     s,
		consumer: args[0],
		after:    flag(flags.GetString, "after"),
		left:     flag(flags.GetInt, "count"),
		warn: func(format string, args ...any) {
			fmt.Fprintln(cmd.ErrOrStderr(), printable(fmt.Sprintf(format, args...)))
		},
		print: func(event tailEvent, _ []byte) error {
			_, err := fmt.Fprintf(out, "%s  %s  %s\n", event.TS.Local().Format("15:04:05.000"), printable(event.SID), printable(string(event.Body)))
			return err
		},
	}
	if f.left < 0 {
		return errors.New("--count must not be negative")
	}
	if f.left == 0 {
		f.left = -1
	}
	if flag(flags.GetBool, "json") {
		f.print = func(_ tailEvent, line []byte) error { return printLine(out, line) }
	}
	return f.follow(cmd.Context())
}

const (
	// minTailRead is the shortest time from the start of a read to the start of the next one.
	minTailRead = time.Second
	// maxTailPause is the longest pause after an error.
	maxTailPause = 10 * time.Second
)

// follow reads until the channel is gone, all messages are printed, or ctx ends. Once a read has begun, the server may
// be unreachable for any time.
func (f *follower) follow(ctx context.Context) error {
	defer f.settle()
	pause := minTailRead
	for f.left != 0 && ctx.Err() == nil {
		begun := time.Now()
		ended, err := f.read(ctx)
		switch {
		case ctx.Err() != nil || f.left == 0:
			return nil
		case ended:
			pause = minTailRead
			err = nil
		case !f.reached, isPermanent(err):
			return err
		}
		wait := minTailRead - time.Since(begun)
		if err != nil {
			f.warn("%v; trying again in %v", err, pause)
			wait = pause
			pause = min(2*pause, maxTailPause)
		}
		select {
		case <-time.After(max(0, wait)):
		case <-ctx.Done():
		}
	}
	return nil
}

// isPermanent reports whether another read would fail like this one.
func isPermanent(err error) bool {
	_, ok := errors.AsType[*lineError](err)
	return ok || isNotFound(err)
}

// A lineError is an error of decoding or printing a line. A new connection would not help.
type lineError struct{ error }

// read does one read, and reports whether it ended cleanly.
func (f *follower) read(ctx context.Context) (ended bool, err error) {
	response, err := f.site.do(ctx, f.request(""), transport.NDJSONType)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	f.reached = true
	if response.Header.Get("Megaphone-Resume") == string(broker.ResumeGap) {
		f.warn("messages may be missing here: the server no longer knows the event %s", f.after)
	}
	for lines := bufio.NewReader(response.Body); f.left != 0; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("the connection broke: %w", err)
		}
		var event tailEvent
		if err := json.Unmarshal(line, &event); err != nil {
			return false, &lineError{fmt.Errorf("this line is not a message of Megaphone: %s", bytes.TrimSpace(line))}
		}
		if err := f.print(event, line); err != nil {
			return false, &lineError{err}
		}
		f.after = event.EID
		f.left--
	}
	return true, nil
}

// request returns a request to read what follows the last printed event. It may have more parameters.
func (f *follower) request(parameters string) siteRequest {
	path := "/read/" + url.PathEscape(f.consumer) + "?after=" + url.QueryEscape(f.after)
	return siteRequest{method: http.MethodGet, path: path + parameters}
}

// settle tells the server which messages are printed, so that nobody gets them again.
func (f *follower) settle() {
	if f.after == "" || !f.reached {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	// If the site does not serve polls, this fails, and the next reader gets the last messages again.
	if response, err := f.site.do(ctx, f.request("&poll=0s"), transport.NDJSONType); err == nil {
		_ = response.Body.Close()
	}
}
