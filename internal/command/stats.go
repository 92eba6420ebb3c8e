package command

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/caddy-megaphone/megaphone/internal/admin"
)

func statsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats [--watch [--interval <duration>]] [--json]",
		Short: "Shows the totals of a server",
		Long: `Shows what a server holds, how much of its limits that is, its version, and how
long it runs.

With --watch, it shows that again and again until you interrupt it, and survives
a server that goes away. On a terminal it stays in place.`,
		Example: `  $ caddy megaphone stats
  $ caddy megaphone stats --watch --interval 1s
  $ caddy megaphone stats --json | jq .channels`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	watched(cmd, showStats)
	addJSONFlag(cmd, "Print the totals as JSON")
	addAdminFlags(cmd)
	return cmd
}

// showStats is the [view] of stats.
func showStats(cmd *cobra.Command, w io.Writer, _ int) error {
	reply, err := newAdminAPI(cmd).fetch(cmd.Context(), http.MethodGet, "stats", nil)
	if err != nil {
		return err
	}
	if flag(cmd.Flags().GetBool, "json") {
		return printLine(w, reply)
	}
	var totals admin.Stats
	if err := decodeReply(reply, &totals); err != nil {
		return err
	}
	return printStats(w, totals)
}

func printStats(w io.Writer, s admin.Stats) error {
	table := newTable(w)
	fmt.Fprintf(table, "agent\t%s\n", s.Agent)
	if !s.Started.IsZero() { // or else the server is older than this command
		fmt.Fprintf(table, "version\t%s, Caddy %s\n", printable(s.Version), printable(s.CaddyVersion))
		fmt.Fprintf(table, "running\t%s, since %s\n", printable(s.Uptime), s.Started.Local().Format(time.DateTime))
	}
	fmt.Fprintf(table, "channels\t%s of %s\n", humanize.Comma(int64(s.Channels)), humanize.Comma(int64(s.MaxChannels)))
	fmt.Fprintf(table, "being read\t%s of %s\n", humanize.Comma(int64(s.Readers)), humanize.Comma(int64(s.MaxReaders)))
	fmt.Fprintf(table, "held producers\t%s\n", humanize.Comma(int64(s.HeldProducers)))
	fmt.Fprintf(table, "messages\t%d pending, %d in flight\n", s.Pending, s.InFlight)
	fmt.Fprintf(table, "memory\t%s of %s\n", humanize.IBytes(uint64(s.BufferedBytes)), humanize.IBytes(uint64(s.MaxMemory))) //nolint:gosec // not negative
	fmt.Fprintf(table, "since the start\t%d accepted, %d merged, %d settled, %d undelivered\n", s.Accepted, s.Merged, s.Settled, s.Undelivered)
	fmt.Fprintf(table, "topics\t%s with %s members, keeping %s\n", humanize.Comma(int64(s.Topics)), humanize.Comma(int64(s.Members)),
		humanize.IBytes(uint64(max(0, s.KeptBytes))))
	fmt.Fprintf(table, "published\t%d, missed by members %d times\n", s.Published, s.Skipped)
	fmt.Fprintf(table, "draining\t%s\n", yesNo(s.Draining))
	if s.Store != nil {
		printStore(table, s.Store)
	}
	return table.Flush()
}

func printStore(w io.Writer, s *admin.Store) {
	state := "reached"
	if !s.Up {
		state = "NOT REACHED: " + s.Error
	}
	fmt.Fprintf(w, "store\t%s\n", state)
	fmt.Fprintf(w, "calls to it\t%s, %s failed, %s writes wait\n", humanize.Comma(int64(s.RoundTrips)), //nolint:gosec // too few to overflow
		humanize.Comma(int64(s.Failures)), humanize.Comma(int64(s.Queued))) //nolint:gosec // too few to overflow
	fmt.Fprintf(w, "interruptions\t%d reconnects, %d resyncs, %d lost pushes, %d fenced calls\n",
		s.Reconnects, s.Resyncs, s.LostPushes, s.Fenced)
	for _, n := range s.Nodes {
		self := ""
		if n.Self {
			self = ", this one"
		}
		fmt.Fprintf(w, "node %s\t%s, process %d, %s readers, seen %s%s\n", n.ID, n.Host, n.Process, humanize.Comma(int64(n.Readers)),
			n.Seen.Local().Format(time.TimeOnly), self)
	}
}
