package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/admin"
	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
)

func drainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain [--over <duration>] [--wait [--timeout <duration>]] | --status | --undo",
		Short: "Empties a server, so that it can be stopped without losing a message",
		Long: `Empties a server, so that it can be stopped without losing a message.

From now on it creates no channels (503 with Retry-After), and its health checks
fail. Over the given time, one after the other, its channels take no more
messages: producers get 404, the reader gets what is there, its read ends
cleanly, and then the channel is deleted. Its client finds it gone, and gets a
new one from another server. Where nobody reads, a channel that holds messages
stays until it expires.

The server stays drained, over reloads too, until --undo or its end.`,
		Example: `  $ caddy megaphone drain --over 2m --wait --timeout 5m && systemctl stop caddy
  $ caddy megaphone drain --status --json
  $ caddy megaphone drain --undo`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              run(runDrain),
	}
	cmd.Flags().String("over", admin.StandardDrain.String(), "Time over which the ends are spread, so that not all clients come back at once")
	cmd.Flags().Bool("wait", false, "Return when all channels are gone")
	cmd.Flags().String("timeout", "", "With --wait: give up after this time, with status 6; the drain goes on")
	cmd.Flags().Bool("status", false, "Change nothing, and tell how far the drain has come")
	cmd.Flags().Bool("undo", false, "End the drain: the server works as before")
	cmd.MarkFlagsMutuallyExclusive("undo", "status", "wait")
	cmd.MarkFlagsMutuallyExclusive("undo", "status", "over")
	addJSONFlag(cmd, "Print the state as JSON")
	addAdminFlags(cmd)
	return cmd
}

// drainPoll is the time between two looks at a drain that is waited for.
const drainPoll = 250 * time.Millisecond

func runDrain(cmd *cobra.Command, _ []string) error {
	flags := cmd.Flags()
	method, body := http.MethodPost, any(map[string]string{"over": flag(flags.GetString, "over")})
	switch {
	case flag(flags.GetBool, "status"):
		method, body = http.MethodGet, nil
	case flag(flags.GetBool, "undo"):
		method, body = http.MethodDelete, nil
	}
	wait := flag(flags.GetBool, "wait")
	ctx := cmd.Context()
	if value := flag(flags.GetString, "timeout"); value != "" {
		timeout, err := caddy.ParseDuration(value)
		if err != nil || timeout <= 0 {
			return fmt.Errorf("--timeout %q is no duration above zero: use for example 90s or 5m", value)
		}
		if !wait {
			return errors.New("--timeout goes with --wait")
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, &exitError{exitUnfinished, fmt.Sprintf("not drained after %v", timeout)})
		defer cancel()
	}
	var state admin.DrainState
	err := readAdmin(ctx, cmd, method, "drain", body, &state)
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("%w: the admin API does not answer", err)
	case err != nil:
		return err
	case wait:
		if err := awaitDrain(ctx, cmd, &state); err != nil {
			return err
		}
	}
	if flag(flags.GetBool, "json") {
		return printJSON(cmd.OutOrStdout(), state)
	}
	fmt.Fprintln(cmd.OutOrStdout(), drainText(state))
	return nil
}

// drainText describes the state of a drain to people.
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

// awaitDrain waits until a drain is done, and tells of its progress on standard error. When ctx ends, the drain goes on.
func awaitDrain(ctx context.Context, cmd *cobra.Command, state *admin.DrainState) error {
	told := ""
	for !state.Done {
		if !state.Draining {
			return errors.New("the drain was undone")
		}
		if text := drainText(*state); text != told {
			fmt.Fprintln(cmd.ErrOrStderr(), text)
			told = text
		}
		select {
		case <-time.After(drainPoll):
		case <-ctx.Done():
		}
		err := readAdmin(ctx, cmd, http.MethodGet, "drain", nil, state)
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
