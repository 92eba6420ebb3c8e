package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/caddy-megaphone/megaphone/internal/admin"
)

func drainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain [--over <duration>] [--wait [--timeout <duration>]] | --status | --undo",
		Short: "Empties a server, so that it can be stopped without losing a message",
		Long: `Empties a server, so that it can be stopped without losing a message.

The server stops creating channels at once (503 with Retry-After), and its
health checks fail. Over the given time, one after the other, its channels stop
taking messages. Producers of such a channel get 404. Its reader gets the
messages that are left, the read ends cleanly, and then the channel is deleted.
The client finds the channel gone, and gets a new one from another server. A
channel that holds messages but has no reader stays until it expires.

The server stays drained, even across reloads, until --undo or until it stops.`,
		Example: `  $ caddy megaphone drain --over 2m --wait --timeout 5m && systemctl stop caddy
  $ caddy megaphone drain --status --json
  $ caddy megaphone drain --undo`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              run(runDrain),
	}
	cmd.Flags().String("over", admin.DefaultDrainTime.String(), "Time over which to spread the drain, so that not all clients reconnect at once")
	cmd.Flags().Bool("wait", false, "Return only when all channels are gone")
	cmd.Flags().String("timeout", "", "With --wait: give up after this time, with exit status 6; the drain goes on")
	cmd.Flags().Bool("status", false, "Print how far the drain has come, and change nothing")
	cmd.Flags().Bool("undo", false, "End the drain: the server works as before")
	cmd.MarkFlagsMutuallyExclusive("undo", "status", "wait")
	cmd.MarkFlagsMutuallyExclusive("undo", "status", "over")
	addJSONFlag(cmd, "Print the state as JSON")
	addAdminFlags(cmd)
	return cmd
}

func runDrain(cmd *cobra.Command, _ []string) error {
	flags := cmd.Flags()
	method, body := http.MethodPost, any(map[string]string{"over": flag(flags.GetString, "over")})
	switch {
	case flag(flags.GetBool, "status"):
		method, body = http.MethodGet, nil
	case flag(flags.GetBool, "undo"):
		method, body = http.MethodDelete, nil
	}
	ctx, cancel, err := withDrainTimeout(cmd)
	if err != nil {
		return err
	}
	defer cancel()
	api, wait := newAdminAPI(cmd), flag(flags.GetBool, "wait")
	var state admin.DrainState
	err = api.call(ctx, method, "drain", body, &state)
	switch {
	case err != nil && method == http.MethodGet:
		return err
	case errors.Is(err, errInterrupted):
		return fmt.Errorf("%w before the server answered: see with --status what it does", err)
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("%w: the admin API does not answer", err)
	case err != nil:
		return err
	case wait:
		if err := api.awaitDrain(ctx, &state, cmd.ErrOrStderr()); err != nil {
			return err
		}
	}
	if flag(flags.GetBool, "json") {
		return printJSON(cmd.OutOrStdout(), state)
	}
	fmt.Fprintln(cmd.OutOrStdout(), drainText(state))
	return nil
}

// withDrainTimeout returns the context of a command. If the flag --timeout is set, it also ends after that time.
func withDrainTimeout(cmd *cobra.Command) (context.Context, context.CancelFunc, error) {
	flags := cmd.Flags()
	value := flag(flags.GetString, "timeout")
	if value == "" {
		return cmd.Context(), func() {}, nil
	}
	timeout, err := caddy.ParseDuration(value)
	if err != nil || timeout <= 0 {
		return nil, nil, fmt.Errorf("--timeout %q is not a valid duration above zero: use for example 90s or 5m", value)
	}
	if !flag(flags.GetBool, "wait") {
		return nil, nil, errors.New("--timeout needs --wait")
	}
	unfinished := &exitError{exitUnfinished, fmt.Sprintf("not drained after %v", timeout)}
	ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout, unfinished)
	return ctx, cancel, nil
}

// drainText describes the state of a drain in words.
func drainText(s admin.DrainState) string {
	progress := fmt.Sprintf("%d of %d channels are left, %d messages were not delivered", s.Remaining, s.Channels, s.Undelivered)
	switch {
	case s.Done:
		return "drained: " + progress
	case s.Draining:
		return "draining: " + progress
	}
	return "not draining"
}

// drainPoll is the pause between two requests for the state of a drain.
const drainPoll = 250 * time.Millisecond

// awaitDrain waits until a drain is done. It keeps the state up to date, and writes progress to log. If ctx ends first,
// awaitDrain returns an error, and the drain goes on.
func (a *adminAPI) awaitDrain(ctx context.Context, state *admin.DrainState, log io.Writer) error {
	logged := ""
	for !state.Done {
		if !state.Draining {
			return errors.New("the drain was undone")
		}
		if text := drainText(*state); text != logged {
			fmt.Fprintln(log, text)
			logged = text
		}
		select {
		case <-time.After(drainPoll):
		case <-ctx.Done():
		}
		err := a.get(ctx, "drain", state)
		if err != nil && ctx.Err() != nil {
			text, _ := json.Marshal(state)
			return fmt.Errorf("%w; the drain goes on: %s", context.Cause(ctx), text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
