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
		Long: `Reads a channel as its consumer, and prints each message as it comes: the time
at which the server has accepted it, the stream, and the body; with --json the
line as the server has sent it.

It takes the channel over from a consumer that reads it now, and what it prints
that one will not get. It reconnects, follows a cursor, and prints each message
once, until it is interrupted or the channel is gone (status 4).`,
		Example: `  $ caddy megaphone tail main.r5Fq2BmN3vX8sW1zK7pQ0g
  $ caddy megaphone tail --json --count 1 $CONSUMER | jq .body`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              run(runTail),
	}
	cmd.Flags().String("after", "", "The last event that is known already: begin after it")
	cmd.Flags().Int("count", 0, "End after so many messages; 0 means never")
	addJSONFlag(cmd, "Print the lines as they are sent")
	addSiteFlags(cmd)
	return cmd
}

// A follower reads a channel over many reads.
type follower struct {
	site     *site
	consumer string
	after    string // the last event that was printed
	left     int    // how many messages are still to be printed; below zero: any number
	print    func(event tailEvent, line []byte) error
	warn     func(format string, args ...any)

	reached bool // there was a read once
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
	// minTailRead is how long it takes until the channel is read again, at least.
	minTailRead = time.Second
	// maxTailPause is the longest pause after a fault.
	maxTailPause = 10 * time.Second
)

// follow reads until the channel is gone, all is printed, or ctx ends. A server that was reached once may go away
// for any time.
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
		case !f.reached, permanent(err):
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

// permanent reports whether it is of no use to try again.
func permanent(err error) bool {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.status == exitNotFound
	}
	_, failed := errors.AsType[*readError](err)
	return failed
}

// A readError is an error that has nothing to do with the connection.
type readError struct{ error }

// read does one read, and reports whether it ended cleanly.
func (f *follower) read(ctx context.Context) (ended bool, err error) {
	response, err := f.site.do(ctx, http.MethodGet, f.path(), nil, nil, transport.NDJSONType)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	f.reached = true
	if response.Header.Get("Megaphone-Resume") == string(broker.ResumeGap) {
		f.warn("messages may be missing here: the server does not know the event %s any more", f.after)
	}
	for lines := bufio.NewReader(response.Body); f.left != 0; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("the read broke: %w", err)
		}
		var event tailEvent
		if err := json.Unmarshal(line, &event); err != nil {
			return false, &readError{fmt.Errorf("this is no message of Megaphone: %s", bytes.TrimSpace(line))}
		}
		if err := f.print(event, line); err != nil {
			return false, &readError{err}
		}
		f.after = event.EID
		f.left--
	}
	return true, nil
}

func (f *follower) path() string {
	return "/read/" + url.PathEscape(f.consumer) + "?after=" + url.QueryEscape(f.after)
}

// settle tells the server what was printed, so that nobody gets it again.
func (f *follower) settle() {
	if f.after == "" || !f.reached {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	// Where polls are not served, the last messages come again to whoever reads next.
	if response, err := f.site.do(ctx, http.MethodGet, f.path()+"&poll=0s", nil, nil, transport.NDJSONType); err == nil {
		_ = response.Body.Close()
	}
}
