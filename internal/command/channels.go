package command

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/admin"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

func listCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [--agent <name>] [--connected | --disconnected] [--min-age <duration>] [--min-pending <messages>] [--limit <channels>] [--json]",
		Short: "Lists channels",
		Long: `Lists the channels of a server, or those for which all conditions hold that the
flags name.

A channel is told by its id, which is no secret; of its addresses, which are
secrets, only the beginning is shown. The list is read page by page: channels
that come or go meanwhile may be missing.

With --json each channel is a line of its own.`,
		Example: `  $ caddy megaphone list
  $ caddy megaphone list --disconnected --min-pending 50
  $ caddy megaphone list --json --min-age 1d | jq -r .id`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              run(runList),
	}
	cmd.Flags().String("agent", "", "Only channels whose addresses begin with this name")
	cmd.Flags().Bool("connected", false, "Only channels that are being read")
	cmd.Flags().Bool("disconnected", false, "Only channels that nobody reads")
	cmd.MarkFlagsMutuallyExclusive("connected", "disconnected")
	cmd.Flags().String("min-age", "", "Only channels that are at least so old, such as 10m or 1d")
	cmd.Flags().Int("min-pending", 0, "Only channels in which so many messages wait at least")
	cmd.Flags().Int("limit", 0, "How many channels to list at most; 0 means all")
	addJSONFlag(cmd, "Print each channel as a line of JSON")
	addAdminFlags(cmd)
	return cmd
}

func runList(cmd *cobra.Command, _ []string) error {
	flags, query := cmd.Flags(), url.Values{}
	for _, name := range []string{"agent", "min-age"} {
		if value := flag(flags.GetString, name); value != "" {
			query.Set(strings.ReplaceAll(name, "-", "_"), value)
		}
	}
	if flags.Changed("min-pending") {
		query.Set("min_pending", strconv.Itoa(flag(flags.GetInt, "min-pending")))
	}
	if connected := flag(flags.GetBool, "connected"); connected || flag(flags.GetBool, "disconnected") {
		query.Set("connected", strconv.FormatBool(connected))
	}
	limit := flag(flags.GetInt, "limit")
	if limit < 0 {
		return errors.New("--limit must not be negative")
	}

	out := bufio.NewWriter(cmd.OutOrStdout())
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	asJSON := flag(flags.GetBool, "json")
	if !asJSON {
		fmt.Fprintln(table, "ID\tAGENT\tREADER\tPENDING\tIN FLIGHT\tAGE\tLAST READ\tEXPIRES")
	}
	for listed, more := 0, true; more; {
		size := admin.MaxPage
		if limit > 0 {
			size = min(size, limit-listed)
		}
		query.Set("limit", strconv.Itoa(size))
		var page admin.Page
		if err := readAdmin(cmd.Context(), cmd, http.MethodGet, "channels?"+query.Encode(), nil, &page); err != nil {
			return err
		}
		for _, c := range page.Channels {
			if asJSON {
				if err := printJSON(out, c); err != nil {
					return err
				}
				continue
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", c.ID, c.Agent, yesNo(c.Connected), c.Pending, c.InFlight,
				since(&c.Created), since(c.LastRead), until(c.Expires))
		}
		listed += len(page.Channels)
		query.Set("cursor", page.Next)
		more = page.Next != "" && (limit == 0 || listed < limit)
	}
	return errors.Join(table.Flush(), out.Flush())
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func since(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return max(0, time.Since(*t)).Round(time.Second).String()
}

func until(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return "in " + max(0, time.Until(*t)).Round(time.Second).String()
}

func showCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show <id or address>... [--messages <n>] [--json]",
		Short: "Shows channels, and on demand the messages that they hold",
		Long: `Shows channels by their id, or by one of their addresses.

With --messages the oldest messages of each channel are shown too, where the
configuration allows it by the setting inspect_messages. They stay where they
are.`,
		Example: `  $ caddy megaphone show 0000002a9f3c1b22
  $ caddy megaphone show --json --messages 10 0000002a9f3c1b22`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeIDs,
		RunE:              run(runShow),
	}
	cmd.Flags().Int("messages", 0, "How many messages to show of each channel")
	addJSONFlag(cmd, "Print each channel as a line of JSON")
	addAdminFlags(cmd)
	return cmd
}

func runShow(cmd *cobra.Command, args []string) error {
	flags := cmd.Flags()
	var found admin.Found
	if err := readAdmin(cmd.Context(), cmd, http.MethodPost, "lookup", map[string][]string{"channels": args}, &found); err != nil {
		return err
	}
	out, missing := cmd.OutOrStdout(), len(found.NotFound)
	for i, c := range found.Channels {
		if n := flag(flags.GetInt, "messages"); n != 0 {
			err := readAdmin(cmd.Context(), cmd, http.MethodGet, fmt.Sprintf("channels/%s?messages=%d", c.ID, n), nil, &c)
			if e, ok := errors.AsType[*exitError](err); ok && e.status == exitNotFound {
				missing++ // it has ended in this moment
				continue
			}
			if err != nil {
				return err
			}
		}
		if flag(flags.GetBool, "json") {
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
	return notFound(missing, len(args))
}

func printChannel(w io.Writer, c admin.Channel) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "id\t%s\nagent\t%s\nproducer address\t%s\nconsumer address\t%s\n", c.ID, c.Agent, c.Producer, c.Consumer)
	fmt.Fprintf(table, "being read\t%s\npending\t%d\nin flight\t%d\n", yesNo(c.Connected), c.Pending, c.InFlight)
	fmt.Fprintf(table, "age\t%s\nlast read\t%s\nexpires\t%s\n", since(&c.Created), since(c.LastRead), until(c.Expires))
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

// notFound is the error for channels that are missing, if any.
func notFound(missing, all int) error {
	if missing == 0 {
		return nil
	}
	return &exitError{exitNotFound, fmt.Sprintf("%d of %d channels are not there: they have expired, were deleted, or never were", missing, all)}
}

// completeIDs completes ids of channels, of those that come first.
func completeIDs(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var page admin.Page
	if err := readAdmin(cmd.Context(), cmd, http.MethodGet, "channels?limit=200", nil, &page); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var ids []string
	for _, c := range page.Channels {
		ids = append(ids, fmt.Sprintf("%s\t%s, %d pending, age %s", c.ID, c.Agent, c.Pending, since(&c.Created)))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

func deleteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete <id or address>... | -",
		Short: "Deletes channels",
		Long: `Deletes channels by their id, or by one of their addresses. Their readers see a
clean end, waiting writes get 404, and what they hold counts as undelivered.

With - the channels are read from standard input, one a line: ids, addresses,
or what "list --json" prints.`,
		Example: `  $ caddy megaphone delete 0000002a9f3c1b22
  $ caddy megaphone list --json --disconnected --min-pending 100 | caddy megaphone delete -`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeIDs,
		RunE:              run(runDelete),
	}
	addJSONFlag(cmd, "Print the result as JSON")
	addAdminFlags(cmd)
	return cmd
}

// deleteAtOnce is how many channels one request deletes.
const deleteAtOnce = 1000

func runDelete(cmd *cobra.Command, args []string) error {
	channels := args
	if len(args) == 1 && args[0] == "-" {
		var err error
		// Who interrupts what makes the list does not want what is there of it deleted.
		channels, err = await(cmd.Context(), func() ([]string, error) { return readNames(cmd.InOrStdin()) })
		if err != nil {
			return fmt.Errorf("%w; nothing was deleted", err)
		}
	}
	total := admin.Deleted{NotFound: []string{}}
	for rest := channels; len(rest) > 0; {
		part := rest[:min(len(rest), deleteAtOnce)]
		rest = rest[len(part):]
		var deleted admin.Deleted
		if err := readAdmin(cmd.Context(), cmd, http.MethodDelete, "channels", map[string][]string{"channels": part}, &deleted); err != nil {
			if len(channels) == len(part) && cmd.Context().Err() == nil {
				return err
			}
			return fmt.Errorf("%w; %d of %d channels were deleted, and perhaps some of %d more", err, total.Deleted, len(channels), len(part))
		}
		total.Deleted += deleted.Deleted
		total.NotFound = append(total.NotFound, deleted.NotFound...)
	}
	if flag(cmd.Flags().GetBool, "json") {
		if err := printJSON(cmd.OutOrStdout(), total); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "deleted %d\n", total.Deleted)
	}
	return notFound(len(total.NotFound), len(channels))
}

// readNames reads names of channels, one a line. A line of JSON names one by its id.
func readNames(r io.Reader) ([]string, error) {
	var all []string
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, admin.MaxBody)
	for lines.Scan() {
		name := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(name, "{") {
			var c admin.Channel
			if err := json.Unmarshal([]byte(name), &c); err != nil || c.ID == "" {
				return nil, fmt.Errorf("this line has no id of a channel: %s", name)
			}
			name = c.ID
		}
		if name != "" {
			all = append(all, name)
		}
	}
	return all, lines.Err()
}

func statsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "stats [--json]",
		Short:             "Shows the totals of a server",
		Long:              "Shows what a server holds, and how much of its limits that is.",
		Example:           "  $ caddy megaphone stats\n  $ caddy megaphone stats --json | jq .channels",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              run(runStats),
	}
	addJSONFlag(cmd, "Print the totals as JSON")
	addAdminFlags(cmd)
	return cmd
}

func runStats(cmd *cobra.Command, _ []string) error {
	reply, err := callAdmin(cmd.Context(), cmd, http.MethodGet, "stats", nil)
	if err != nil {
		return err
	}
	if flag(cmd.Flags().GetBool, "json") {
		return printLine(cmd.OutOrStdout(), reply)
	}
	var t admin.Stats
	if err := json.Unmarshal(reply, &t); err != nil {
		return err
	}
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "agent\t%s\n", t.Agent)
	fmt.Fprintf(table, "channels\t%s of %s\n", humanize.Comma(int64(t.Channels)), humanize.Comma(int64(t.MaxChannels)))
	fmt.Fprintf(table, "being read\t%s of %s\n", humanize.Comma(int64(t.Readers)), humanize.Comma(int64(t.MaxReaders)))
	fmt.Fprintf(table, "waiting producers\t%s\n", humanize.Comma(int64(t.HeldProducers)))
	fmt.Fprintf(table, "messages\t%d pending, %d in flight\n", t.Pending, t.InFlight)
	fmt.Fprintf(table, "memory\t%s of %s\n", humanize.IBytes(uint64(t.BufferedBytes)), humanize.IBytes(uint64(t.MaxMemory))) //nolint:gosec // not negative
	fmt.Fprintf(table, "since the start\t%d accepted, %d settled, %d undelivered\n", t.Accepted, t.Settled, t.Undelivered)
	fmt.Fprintf(table, "draining\t%s\n", yesNo(t.Draining))
	return table.Flush()
}
