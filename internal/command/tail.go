package command

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	megaphone "github.com/caddy-megaphone/megaphone/client/go"
)

func tailCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tail <consumer address> [--after <event id>] [--count <messages>] [--json]",
		Short: "Reads a channel and prints its messages",
		Long: `Reads a channel as its consumer, and prints each message as it arrives: the time
at which the server accepted it, the stream, and the body, or that a topic has
ended. With --json, it prints each line as the server sends it.

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

func runTail(cmd *cobra.Command, args []string) error {
	s, err := newSite(cmd)
	if err != nil {
		return err
	}
	flags, out := cmd.Flags(), cmd.OutOrStdout()
	left := flag(flags.GetInt, "count")
	switch {
	case left < 0:
		return errors.New("--count must not be negative")
	case left == 0:
		left = -1
	}
	warn := func(format string, args ...any) {
		fmt.Fprintln(cmd.ErrOrStderr(), printable(fmt.Sprintf(format, args...)))
	}
	opened := false
	options := megaphone.ReadOptions{
		After:  flag(flags.GetString, "after"),
		OnOpen: func() { opened = true },
		OnError: func(err error, pause time.Duration) error {
			if !opened {
				return err
			}
			warn("%v; trying again in %v", siteError(err), pause.Round(time.Second/10))
			return nil
		},
	}
	raw := flag(flags.GetBool, "json")
	for event, err := range s.Read(cmd.Context(), args[0], options) {
		switch {
		case cmd.Context().Err() != nil:
			return nil
		case err != nil:
			return siteError(err)
		}
		if event.Gap {
			warn("messages may be missing here: the server no longer knows the event before")
		}
		if event.Missed > 0 {
			warn("%d messages of topics are missing here: the channel had no room for them", event.Missed)
		}
		if err := printEvent(out, event, raw); err != nil {
			return err
		}
		if left--; left == 0 {
			return nil
		}
	}
	return nil
}

// printEvent prints an event, or the line that the server sent.
func printEvent(out io.Writer, event megaphone.Event, raw bool) error {
	if raw {
		return printLine(out, event.JSON)
	}
	text := string(event.Body)
	if event.End != "" { // the body is null then
		text = "end of the topic: " + event.End
	}
	_, err := fmt.Fprintf(out, "%s  %s  %s\n", event.Time.Local().Format("15:04:05.000"), printable(event.StreamID), printable(text))
	return err
}
