// Package command adds the command `caddy megaphone` to Caddy. Its subcommands only make HTTP requests. list, show,
// delete, stats, drain and topic call the admin API of a running server. create, send and tail call a site, as backends and
// clients do. Only journal check and journal repair read files: those of a server that is not running.
//
// The package knows the JSON of package admin and the formats of protocol.md. It never uses a Broker: from package
// broker it takes only names and rules that both sides of a request share, and from package disk what checks its files.
package command

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/signal"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// Register adds the command megaphone to Caddy. Call it once, at the start of the process.
func Register() { caddycmd.RegisterCommand(megaphoneCommand()) }

func megaphoneCommand() caddycmd.Command {
	return caddycmd.Command{
		Name:  "megaphone",
		Usage: "<command>",
		Short: "Manages channels of Megaphone, and sends and reads messages",
		Long: `Manages the channels of a running server, and sends and reads messages.

The commands list, show, delete, stats, drain, topic and journal backup use
Caddy's admin API. They find its address as Caddy's other commands do: from
--address, or else from the file of --config, or else the default.

The commands create, send and tail use a site, as backends and clients do. They
take its URL from --url, or else from the environment variable MEGAPHONE_URL, or
else use ` + defaultURL + `.

The commands journal check and journal repair read the files of a server that is
not running.

Results go to standard output, everything else to standard error.

Exit status:
  0    done
  1    failed: the server is not reachable or refuses the request, or an
       argument is wrong
  4    there is no such channel; if you named several, at least one is missing
  5    refused for now: the channel is full, somebody reads it, a limit is
       reached, or the topic is closed
  6    drain --wait: the drain was not done within --timeout
  130  SIGINT or SIGTERM interrupted the command before it was done; tail and
       --watch have no end of their own, so they exit with 0 then`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Example = `  $ caddy megaphone list --min-pending 50
  $ caddy megaphone drain --over 1m --wait
  $ caddy megaphone create --json
  $ caddy megaphone tail main.r5Fq2BmN3vX8sW1zK7pQ0g`
			cmd.Args = cobra.NoArgs
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			for _, command := range []*cobra.Command{
				listCommand(), showCommand(), deleteCommand(), statsCommand(), drainCommand(), topicCommand(),
				createCommand(), sendCommand(), tailCommand(), journalCommand(),
			} {
				command.DisableFlagsInUseLine = true // Use already has them
				cmd.AddCommand(command)
			}
		},
	}
}

// Exit statuses other than 0 and 1. Caddy itself uses 2 and 3.
const (
	exitNotFound    = 4
	exitTryAgain    = 5
	exitUnfinished  = 6
	exitInterrupted = 130 // as in shells, for SIGINT
)

// An exitError is an error with its own exit status.
type exitError struct {
	status  int
	message string
}

func (e *exitError) Error() string { return e.message }

// isNotFound reports whether an error says that a channel does not exist.
func isNotFound(err error) bool {
	e, ok := errors.AsType[*exitError](err)
	return ok && e.status == exitNotFound
}

// errInterrupted is the cause with which a signal ends the context of a command.
var errInterrupted = &exitError{exitInterrupted, "interrupted"}

// run returns f as the RunE of a command. SIGINT or SIGTERM ends the command's context, with [errInterrupted] as its
// cause. A second signal ends the process at once. If f fails, the process exits with the status of an [exitError], and
// with 1 after any other error.
func run(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		signals, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		ctx, cancel := context.WithCancelCause(cmd.Context())
		defer cancel(nil)
		context.AfterFunc(signals, func() {
			cancel(errInterrupted)
			stop()
		})
		cmd.SetContext(ctx)
		return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) {
			err := f(cmd, args)
			if err == nil {
				return caddy.ExitCodeSuccess, nil
			}
			status := caddy.ExitCodeFailedStartup
			if e, ok := errors.AsType[*exitError](err); ok {
				status = e.status
			}
			return status, errors.New(printable(strings.TrimSpace(err.Error()))) // may quote a server
		})(cmd, args)
	}
}

// httpError returns the error for a reply that refuses a request. message is what the server says.
func httpError(status int, message string) error {
	switch status {
	case http.StatusNotFound, http.StatusGone:
		return &exitError{exitNotFound, message}
	case http.StatusConflict, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return &exitError{exitTryAgain, message}
	}
	return fmt.Errorf("status %d: %s", status, message)
}

// missingError returns the error for channels that do not exist, or nil if none is missing.
func missingError(missing, all int) error {
	if missing == 0 {
		return nil
	}
	return &exitError{exitNotFound, fmt.Sprintf("%d of %d channels do not exist: they have expired, were deleted, or never existed", missing, all)}
}

// addJSONFlag adds the flag --json, which selects output for programs.
func addJSONFlag(cmd *cobra.Command, usage string) { cmd.Flags().Bool("json", false, usage) }

// flag returns the value of a command's flag. It panics if the command has no flag of this name and type.
func flag[T any](get func(name string) (T, error), name string) T {
	value, err := get(name)
	if err != nil {
		panic(err)
	}
	return value
}

// await calls f and returns what f returns. If ctx ends first, await returns the cause and abandons f, which keeps
// running. If ctx has ended already, await does not call f. Use it for a call that cannot be interrupted, in a process
// that ends soon.
func await[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	if ctx.Err() == nil {
		go func() {
			value, err := f()
			done <- outcome{value, err}
		}()
	}
	select {
	case <-ctx.Done():
	case o := <-done:
		if ctx.Err() == nil {
			return o.value, o.err
		}
	}
	var none T
	return none, context.Cause(ctx)
}
