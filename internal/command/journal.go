package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/caddy-megaphone/megaphone/broker/disk"
	"github.com/caddy-megaphone/megaphone/internal/admin"
)

// journalCommand returns the command for journals of the broker disk. check and repair read files, and ask no server.
func journalCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "journal <command>",
		Short: "Backs up, checks and repairs the journal of the broker disk",
		Long: `Backs up, checks and repairs the journal of the broker disk.

backup asks the running server. For check and repair, stop the server before:
only one process may use a journal. A backup can be checked at any time.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	check := &cobra.Command{
		Use:   "check [--path <folder>] [--json]",
		Short: "Shows what a journal has, and what is damaged",
		Long: `Shows what a journal has, and what is damaged. It changes nothing, and a copy
may be in a folder that cannot be written.

The exit status is 1 if a part is damaged that was durable before. Then a
server does not start with this journal.`,
		Example: "  $ caddy megaphone journal check\n  $ caddy megaphone journal check --path /backup/megaphone",
		RunE:    run(runJournalCheck),
	}
	repair := &cobra.Command{
		Use:   "repair [--path <folder>] [--json]",
		Short: "Writes a damaged journal anew, with all that can be read",
		Long: `Writes a damaged journal anew, with all that can be read of it. The files that
were there are moved to a folder "damaged-…" within the journal's folder.

Run "caddy megaphone journal check" before, to see what is damaged. Run this
as the user that the server runs as, who must be able to read the new files.`,
		Example: "  $ caddy megaphone journal repair",
		RunE:    run(runJournalRepair),
	}
	cmd.AddCommand(backupCommand())
	for _, c := range []*cobra.Command{check, repair} {
		c.Args, c.ValidArgsFunction, c.DisableFlagsInUseLine = cobra.NoArgs, cobra.NoFileCompletions, true
		c.Flags().String("path", filepath.Join(caddy.AppDataDir(), "megaphone"), "The setting path of the broker disk")
		addJSONFlag(c, "Print the report as JSON")
		cmd.AddCommand(c)
	}
	return cmd
}

func backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup <folder>",
		Short: "Copies the journal of a running server",
		Long: `Copies the journal of a running server to a folder on the server's machine,
which must not exist. The server writes it, as its own user. The copy has
everything that was acknowledged before the command began. The folder is there
only once it is complete. If the command is interrupted, the server goes on.

To restore it, stop the server and put the copy in place of the journal's
folder.`,
		Example:               "  $ caddy megaphone journal backup /backup/megaphone-1",
		Args:                  cobra.ExactArgs(1),
		DisableFlagsInUseLine: true,
		RunE:                  run(runJournalBackup),
	}
	addJSONFlag(cmd, "Print path and size as JSON")
	addAdminFlags(cmd)
	return cmd
}

func runJournalBackup(cmd *cobra.Command, args []string) error {
	path, err := filepath.Abs(args[0])
	if err != nil {
		return err
	}
	body := map[string]string{"path": path}
	stop := showProgress(cmd, func() string { return "the server copies the journal" })
	defer stop()
	reply, err := newAdminAPI(cmd).fetchWithin(cmd.Context(), admin.MaxBackup, http.MethodPost, "backup", body)
	stop()
	if err != nil {
		return err
	}
	if flag(cmd.Flags().GetBool, "json") {
		return printLine(cmd.OutOrStdout(), reply)
	}
	var backup admin.Backup
	if err := decodeReply(reply, &backup); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s has %s\n", printable(backup.Path), humanize.IBytes(uint64(max(0, backup.Bytes))))
	return err
}

// journalPath returns the folder that --path names. A name that is mistaken is an error, not an empty journal.
func journalPath(cmd *cobra.Command) (string, error) {
	path := flag(cmd.Flags().GetString, "path")
	if info, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("there is no journal: %w; --path is the setting path of the broker disk", err)
	} else if !info.IsDir() {
		return "", fmt.Errorf("there is no journal: %s is not a folder; --path is the setting path of the broker disk", path)
	}
	return path, nil
}

func runJournalCheck(cmd *cobra.Command, _ []string) error {
	path, err := journalPath(cmd)
	if err != nil {
		return err
	}
	progress, stop := showJournalProgress(cmd)
	report, err := disk.Check(cmd.Context(), path, progress)
	stop()
	if err != nil {
		return err
	}
	if err := printReport(cmd, report); err != nil {
		return err
	}
	if report.Refused() {
		return errors.New("the journal is damaged: a server does not start with it. Restore it from a copy, or run caddy megaphone journal repair")
	}
	return nil
}

func runJournalRepair(cmd *cobra.Command, _ []string) error {
	path, err := journalPath(cmd)
	if err != nil {
		return err
	}
	progress, stop := showJournalProgress(cmd)
	report, kept, err := disk.Repair(cmd.Context(), path, progress)
	stop()
	if err != nil {
		return err
	}
	if err := printReport(cmd, report); err != nil {
		return err
	}
	if kept == "" {
		fmt.Fprintln(cmd.ErrOrStderr(), "nothing is damaged, and nothing was changed")
	} else {
		fmt.Fprintf(cmd.ErrOrStderr(), "repaired; the files that were there are in %s\n", filepath.Join(path, kept))
	}
	return nil
}

// showJournalProgress shows how much of a journal has been read, when progress is called.
func showJournalProgress(cmd *cobra.Command) (progress func(read, all int64), stop func()) {
	var read, all atomic.Int64
	stop = showProgress(cmd, func() string {
		switch n, size := read.Load(), all.Load(); {
		case size == 0:
			return "the journal is opened"
		case n == size:
			return "the journal is read; its channels are put together"
		default:
			return fmt.Sprintf("%s of %s read", humanize.IBytes(uint64(n)), humanize.IBytes(uint64(size))) //nolint:gosec // sizes
		}
	})
	return func(n, size int64) {
		all.Store(size)
		read.Store(n)
	}, stop
}

// printReport prints a report to standard output.
func printReport(cmd *cobra.Command, r *disk.Report) error {
	if flag(cmd.Flags().GetBool, "json") {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		return printLine(cmd.OutOrStdout(), line)
	}
	return writeReport(cmd.OutOrStdout(), r)
}

func writeReport(w io.Writer, r *disk.Report) error {
	table := newTable(w)
	fmt.Fprintf(table, "channels\t%s\n", humanize.Comma(int64(r.Channels)))
	fmt.Fprintf(table, "messages\t%s\n", humanize.Comma(int64(r.Messages)))
	fmt.Fprintf(table, "missing between them\t%s\n", humanize.Comma(int64(r.Missing)))
	fmt.Fprintf(table, "topics\t%s\n", humanize.Comma(int64(r.Topics)))
	fmt.Fprintf(table, "memberships\t%s\n", humanize.Comma(int64(r.Memberships)))
	fmt.Fprintf(table, "kept by topics\t%s\n", humanize.Comma(int64(r.Kept)))
	if r.MissingMemberships > 0 {
		fmt.Fprintf(table, "memberships of topics that are lost\t%s\n", humanize.Comma(int64(r.MissingMemberships)))
	}
	fmt.Fprintf(table, "segments\t%d, %s\n", r.Segments, humanize.IBytes(uint64(max(0, r.Bytes))))
	for _, d := range r.Damages {
		kind := "torn off at the end"
		if d.Middle {
			kind = "damaged since it was durable"
		}
		fmt.Fprintf(table, "damage\t%s, offset %d: %s; of %s, a repair keeps %s whole records\n",
			d.File, d.Offset, kind, humanize.IBytes(uint64(max(0, d.Bytes))), humanize.Comma(int64(d.Records)))
	}
	for _, name := range r.MissingFiles {
		fmt.Fprintf(table, "missing\t%s, or several from it on\n", name)
	}
	return table.Flush()
}
