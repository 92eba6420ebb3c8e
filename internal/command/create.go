package command

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/caddy-megaphone/megaphone/internal/jsontext"
)

func createCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create [--url <url>] [--json]",
		Short: "Creates a channel",
		Long: `Creates a channel, as a backend does, and prints its two addresses. Both are
secrets. The server deletes the channel if nobody reads it for the time of the
setting ttl, which is one minute by default.`,
		Example: `  $ caddy megaphone create
  $ caddy megaphone create --json --url https://push.internal -H "Authorization: Basic …"`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              run(runCreate),
	}
	addJSONFlag(cmd, "Print the server's reply, which is JSON")
	addSiteFlags(cmd)
	return cmd
}

func runCreate(cmd *cobra.Command, _ []string) error {
	s, err := newSite(cmd)
	if err != nil {
		return err
	}
	reply, err := s.fetch(cmd.Context(), siteRequest{method: http.MethodPost, path: "/create"})
	if err != nil {
		return err
	}
	if flag(cmd.Flags().GetBool, "json") {
		return printLine(cmd.OutOrStdout(), reply)
	}
	var created struct{ ProducerAddress, ConsumerAddress string }
	if err := json.Unmarshal(reply, &created); err != nil {
		return fmt.Errorf("cannot decode the reply: %s", jsontext.Explain(err))
	}
	table := newTable(cmd.OutOrStdout())
	fmt.Fprintf(table, "producer address\t%s\nconsumer address\t%s\n", printable(created.ProducerAddress), printable(created.ConsumerAddress))
	return table.Flush()
}
