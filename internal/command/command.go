package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// Register adds the command megaphone to Caddy.
func Register() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "megaphone",
		Usage: "<command>",
		Short: "Looks after the channels of Megaphone, and sends and reads messages",
		Long: `Looks after the channels of a running server, and sends and reads messages.

The commands list, show, delete, stats and drain use Caddy's admin API. They
find it as other commands of Caddy do: by --address, or in the file of
--config, or at its default address.

The commands create, send and tail use a site, as backends and clients do. The
site is told by --url or the environment variable MEGAPHONE_URL, and is
` + standardURL + ` otherwise.

What is asked for goes to standard output, everything else to standard error.

Exit status:
  0    done
  1    a fault: the server is not reachable, refuses the request, or there is
       something wrong with the arguments
  4    there is no such channel; of several, at least one is missing
  5    refused for now: the channel is full or being read, or a limit is reached
  6    drain --wait: not done within the time of --timeout
  130  interrupted by SIGINT or SIGTERM, before it was done; tail has no end of
       its own, and its status is 0 then`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Example = `  $ caddy megaphone list --min-pending 50
  $ caddy megaphone drain --over 1m --wait
  $ caddy megaphone create --json
  $ caddy megaphone tail main.r5Fq2BmN3vX8sW1zK7pQ0g`
			cmd.Args = cobra.NoArgs
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			for _, command := range []*cobra.Command{
				listCommand(), showCommand(), deleteCommand(), statsCommand(), drainCommand(),
				createCommand(), sendCommand(), tailCommand(),
			} {
				command.DisableFlagsInUseLine = true // Use names them
				cmd.AddCommand(command)
			}
		},
	})
}

// Statuses of the process beside 0 and 1. Caddy gives 2 and 3 a meaning of its own.
const (
	exitNotFound    = 4
	exitTryAgain    = 5
	exitUnfinished  = 6
	exitInterrupted = 130 // as shells have it for SIGINT
)

// A exitError is an error that has an exit status of its own.
type exitError struct {
	status  int
	message string
}

func (e *exitError) Error() string { return e.message }

// errInterrupted is why the context of a command ends.
var errInterrupted = &exitError{exitInterrupted, "interrupted"}

// run makes a function the one that a command runs. SIGINT and SIGTERM end its context, for [errInterrupted]; a second
// one ends the process.
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
			return status, errors.New(printable(strings.TrimSpace(err.Error()))) // it may have words of a server
		})(cmd, args)
	}
}

// httpError is the error for a reply with a status that is not a success, and the server's words.
func httpError(status int, message string) error {
	switch status {
	case http.StatusNotFound, http.StatusGone:
		return &exitError{exitNotFound, message}
	case http.StatusConflict, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return &exitError{exitTryAgain, message}
	}
	return fmt.Errorf("status %d: %s", status, message)
}

// addAdminFlags adds the flags by which the admin API is found. They are those of Caddy's own commands.
func addAdminFlags(cmd *cobra.Command) {
	cmd.Flags().String("address", "", "Address of the admin API, if it is not the one of the configuration")
	cmd.Flags().StringP("config", "c", "", "File with the configuration, which tells the address of the admin API")
	cmd.Flags().StringP("adapter", "a", "", "Name of the config adapter to apply to the file")
	_ = cmd.RegisterFlagCompletionFunc("address", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("adapter", cobra.NoFileCompletions)
}

// addJSONFlag adds the flag that chooses output for programs.
func addJSONFlag(cmd *cobra.Command, usage string) { cmd.Flags().Bool("json", false, usage) }

// flag returns the value of a flag that the command has.
func flag[T any](get func(name string) (T, error), name string) T {
	value, err := get(name)
	if err != nil {
		panic(err) // the command has no such flag
	}
	return value
}

// await calls f, and returns what that returns. If ctx ends first, it returns why, and f goes on unheeded: it is for
// what cannot be interrupted, in a process that ends soon.
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

// adminPatience is how long a request to the admin API may take. None does more than some milliseconds of work.
const adminPatience = time.Minute

// callAdmin makes a request to the admin API, with the value body as JSON if there is one, and returns the reply.
func callAdmin(ctx context.Context, cmd *cobra.Command, method, path string, body any) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, adminPatience, fmt.Errorf("the admin API has not answered for %v", adminPatience))
	defer cancel()
	return await(ctx, func() ([]byte, error) {
		flags := cmd.Flags()
		address, err := caddycmd.DetermineAdminAPIAddress(flag(flags.GetString, "address"), nil,
			flag(flags.GetString, "config"), flag(flags.GetString, "adapter"))
		if err != nil {
			return nil, fmt.Errorf("finding the admin API: %w", err)
		}
		var reader io.Reader
		if body != nil {
			text, err := json.Marshal(body)
			if err != nil {
				return nil, err
			}
			reader = bytes.NewReader(text)
		}
		header := http.Header{"Connection": {"close"}} // AdminAPIRequest has a new client for each request
		response, err := caddycmd.AdminAPIRequest(address, method, "/megaphone/"+path, header, reader)
		if err != nil {
			return nil, adminCallError(address, err)
		}
		defer response.Body.Close()
		return io.ReadAll(response.Body)
	})
}

// readAdmin is like callAdmin, and reads the reply into v.
func readAdmin(ctx context.Context, cmd *cobra.Command, method, path string, body, v any) error {
	reply, err := callAdmin(ctx, cmd, method, path, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(reply, v); err != nil {
		return fmt.Errorf("the admin API's reply is not understood: %w", err)
	}
	return nil
}

// refusal finds status and body in the error with which AdminAPIRequest reports a reply that is not a success.
var refusal = regexp.MustCompile(`(?s)HTTP (\d{3}): (.*)`)

// adminCallError says in words for the operator why a request to the admin API failed.
func adminCallError(address string, err error) error {
	parts := refusal.FindStringSubmatch(err.Error())
	if parts == nil {
		return fmt.Errorf("the admin API at %s does not answer: %w", address, err)
	}
	var reply struct {
		Error string `json:"error"`
	}
	if json.Unmarshal([]byte(parts[2]), &reply) != nil || reply.Error == "" {
		return fmt.Errorf("the server at %s has no admin API of Megaphone: %w", address, err)
	}
	status, _ := strconv.Atoi(parts[1])
	return httpError(status, reply.Error)
}

// printable writes what could command a terminal as escapes.
func printable(text string) string {
	var b strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// printJSON prints a value as one line of JSON.
func printJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// printLine prints a reply, which is JSON, as one line.
func printLine(w io.Writer, reply []byte) error {
	_, err := fmt.Fprintf(w, "%s\n", bytes.TrimSpace(reply))
	return err
}
