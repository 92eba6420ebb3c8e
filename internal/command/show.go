package command

import (
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/gobwas/ws"
	"github.com/spf13/cobra"

	"github.com/caddy-megaphone/megaphone/internal/admin"
)

func showCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show <id or address>... [--messages <n>] [--json]",
		Short: "Shows channels and, with --messages, what they hold",
		Long: `Shows channels by id, or by one of their addresses.

With --messages, it also shows the oldest messages of each channel. The
configuration must allow that with the setting inspect_messages. The messages
stay in the channel.`,
		Example: `  $ caddy megaphone show 0000002a9f3c1b22
  $ caddy megaphone show --json --messages 10 0000002a9f3c1b22`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeIDs,
		RunE:              run(runShow),
	}
	cmd.Flags().Int("messages", 0, "Maximum number of messages to show of each channel")
	addJSONFlag(cmd, "Print each channel as one line of JSON")
	addAdminFlags(cmd)
	return cmd
}

func runShow(cmd *cobra.Command, args []string) error {
	api, flags := newAdminAPI(cmd), cmd.Flags()
	messages, asJSON := flag(flags.GetInt, "messages"), flag(flags.GetBool, "json")
	var found admin.LookupReply
	if err := api.call(cmd.Context(), http.MethodPost, "lookup", namesBody(args), &found); err != nil {
		return err
	}
	out, missing := cmd.OutOrStdout(), len(found.NotFound)
	for i, c := range found.Channels {
		if messages != 0 {
			err := api.get(cmd.Context(), fmt.Sprintf("channels/%s?messages=%d", c.ID, messages), &c)
			if isNotFound(err) {
				missing++ // the channel ended after the lookup
				continue
			}
			if err != nil {
				return err
			}
		}
		if asJSON {
			if err := printJSON(out, c); err != nil {
				return err
			}
			continue
		}
		if i > 0 {
			fmt.Fprintln(out)
		}
		if err := printChannel(out, c); err != nil {
			return err
		}
	}
	return missingError(missing, len(args))
}

func printChannel(w io.Writer, c admin.Channel) error {
	table := newTable(w)
	fmt.Fprintf(table, "id\t%s\nagent\t%s\nproducer address\t%s\nconsumer address\t%s\n", c.ID, c.Agent, c.Producer, c.Consumer)
	fmt.Fprintf(table, "being read\t%s\npending\t%d\nin flight\t%d\n", yesNo(c.Connected), c.Pending, c.InFlight)
	fmt.Fprintf(table, "age\t%s\nlast read\t%s\nexpires\t%s\n", since(&c.Created), since(c.LastRead), until(c.Expires))
	if c.CloseCode != 0 {
		fmt.Fprintf(table, "last close code\t%s\n", closeCode(c.CloseCode))
	}
	for _, m := range c.Messages {
		state := "pending"
		if m.InFlight {
			state = "in flight"
		}
		fmt.Fprintf(table, "%s\t%s\n", state, printable(string(m.Message)))
	}
	if c.MoreMessages {
		fmt.Fprintf(table, "more\tnot shown: they are too large to be shown at once\n")
	}
	return table.Flush()
}

// closeCode returns a close code with its meaning (RFC 6455, 7.4.1), if an operator can do something about it.
func closeCode(code int) string {
	if code == int(ws.StatusMessageTooBig) {
		return fmt.Sprintf("%d: a message is too large for the client", code)
	}
	return strconv.Itoa(code)
}
