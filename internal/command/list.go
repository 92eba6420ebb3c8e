package command

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

func listCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [--agent <name>] [--connected | --disconnected] [--min-age <duration>] [--min-pending <messages>] [--limit <channels>] [--watch [--interval <duration>]] [--json]",
		Short: "Lists channels",
		Long: `Lists the channels of a server that match all of the given flags.

The list names each channel by its id, which is not a secret. A channel's
addresses are secrets, so only their beginning is ever shown. The command reads
the list page by page: channels that are created or deleted meanwhile may be
missing.

With --json, each channel is one line. With --watch, the list is shown again and
again until you interrupt it, and survives a server that goes away. On a
terminal it stays in place, and has as many channels as there is room for.`,
		Example: `  $ caddy megaphone list
  $ caddy megaphone list --min-pending 1 --watch
  $ caddy megaphone list --disconnected --min-pending 50
  $ caddy megaphone list --json --min-age 1d | jq -r .id`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	watched(cmd, showList)
	cmd.Flags().String("agent", "", "Only channels whose addresses begin with this name")
	cmd.Flags().Bool("connected", false, "Only channels that have a reader")
	cmd.Flags().Bool("disconnected", false, "Only channels that have no reader")
	cmd.MarkFlagsMutuallyExclusive("connected", "disconnected")
	cmd.Flags().String("min-age", "", "Only channels that are at least this old, for example 10m or 1d")
	cmd.Flags().Int("min-pending", 0, "Only channels with at least this many pending messages")
	cmd.Flags().Int("limit", 0, "Maximum number of channels to list; 0 means all")
	addJSONFlag(cmd, "Print each channel as one line of JSON")
	addAdminFlags(cmd)
	return cmd
}

// showList is the [view] of list.
func showList(cmd *cobra.Command, w io.Writer, rows int) error {
	flags := cmd.Flags()
	limit, asJSON := flag(flags.GetInt, "limit"), flag(flags.GetBool, "json")
	switch {
	case limit < 0:
		return errors.New("--limit must not be negative")
	case limit == 0 && rows > 0:
		limit = rows // one more than there is room for below the heading, so that it is seen that there are more
	}
	out := bufio.NewWriter(w)
	table := newTable(out)
	var listed atomic.Int64
	stop := func() {}
	if !asJSON && rows == 0 {
		stop = showProgress(cmd, func() string { return humanize.Comma(listed.Load()) + " channels so far" })
	}
	defer stop()
	if !asJSON {
		fmt.Fprintln(table, "ID\tAGENT\tREADER\tPENDING\tIN FLIGHT\tAGE\tLAST READ\tEXPIRES")
	}
	for c, err := range newAdminAPI(cmd).channels(cmd.Context(), listFilter(cmd), limit) {
		if err != nil {
			return err
		}
		listed.Add(1)
		if asJSON {
			if err := printJSON(out, c); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", c.ID, c.Agent, yesNo(c.Connected), c.Pending, c.InFlight,
			since(&c.Created), since(c.LastRead), until(c.Expires))
	}
	stop()
	return errors.Join(table.Flush(), out.Flush())
}

// listFilter returns the parameters of the admin API for the flags that select channels.
func listFilter(cmd *cobra.Command) url.Values {
	flags, filter := cmd.Flags(), url.Values{}
	for _, name := range []string{"agent", "min-age"} {
		if value := flag(flags.GetString, name); value != "" {
			filter.Set(strings.ReplaceAll(name, "-", "_"), value)
		}
	}
	if flags.Changed("min-pending") {
		filter.Set("min_pending", strconv.Itoa(flag(flags.GetInt, "min-pending")))
	}
	if connected := flag(flags.GetBool, "connected"); connected || flag(flags.GetBool, "disconnected") {
		filter.Set("connected", strconv.FormatBool(connected))
	}
	return filter
}
