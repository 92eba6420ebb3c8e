package command

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/caddy-megaphone/megaphone/internal/admin"
)

func deleteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete <id or address>... | -",
		Short: "Deletes channels",
		Long: `Deletes channels by id, or by one of their addresses. Their reads end cleanly,
waiting writes get 404, and the messages that they hold count as undelivered.

With -, it reads the channels from standard input, one per line: ids, addresses,
or the output of "list --json".`,
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

func runDelete(cmd *cobra.Command, args []string) error {
	names := args
	var done atomic.Int64
	if len(args) == 1 && args[0] == "-" {
		var err error
		// A user who interrupts the command that writes the list does not want the first part of the list deleted.
		stop := showInputProgress(cmd, func() string { return "reading the names of channels" })
		names, err = await(cmd.Context(), func() ([]string, error) { return readNames(cmd.InOrStdin()) })
		stop()
		if err != nil {
			return fmt.Errorf("%w; nothing was deleted", err)
		}
	}
	stop := showProgress(cmd, func() string {
		return fmt.Sprintf("%s of %s channels", humanize.Comma(done.Load()), humanize.Comma(int64(len(names))))
	})
	deleted, err := newAdminAPI(cmd).deleteChannels(cmd.Context(), names, &done)
	stop()
	if err != nil {
		return err
	}
	if flag(cmd.Flags().GetBool, "json") {
		if err := printJSON(cmd.OutOrStdout(), deleted); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "deleted %d\n", deleted.Deleted)
	}
	return missingError(len(deleted.NotFound), len(names))
}

// deleteBatch is the most channels that one request deletes.
const deleteBatch = 1000

// deleteChannels deletes channels, in as many requests as it takes. An error says how far it came. done counts the names that
// are done with.
func (a *adminAPI) deleteChannels(ctx context.Context, names []string, done *atomic.Int64) (admin.DeleteReply, error) {
	total := admin.DeleteReply{NotFound: []string{}}
	for rest := names; len(rest) > 0; {
		batch := rest[:min(len(rest), deleteBatch)]
		rest = rest[len(batch):]
		var deleted admin.DeleteReply
		if err := a.call(ctx, http.MethodDelete, "channels", namesBody(batch), &deleted); err != nil {
			if len(names) == len(batch) && ctx.Err() == nil {
				return total, err
			}
			return total, fmt.Errorf("%w; %d of %d channels were deleted, and perhaps some of %d more", err, total.Deleted, len(names), len(batch))
		}
		total.Deleted += deleted.Deleted
		total.NotFound = append(total.NotFound, deleted.NotFound...)
		done.Add(int64(len(batch)))
	}
	return total, nil
}

// readNames reads names of channels, one per line: ids, addresses, or the JSON of a channel, which stands for its id.
// It ignores empty lines.
func readNames(r io.Reader) ([]string, error) {
	var names []string
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, admin.MaxBody)
	for lines.Scan() {
		name := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(name, "{") {
			var c admin.Channel
			if err := json.Unmarshal([]byte(name), &c); err != nil || c.ID == "" {
				return nil, fmt.Errorf("this line has no channel id: %s", name)
			}
			name = c.ID
		}
		if name != "" {
			names = append(names, name)
		}
	}
	return names, lines.Err()
}
