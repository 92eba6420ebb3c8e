package command

import (
	"fmt"

	"github.com/spf13/cobra"

	megaphone "github.com/caddy-megaphone/megaphone/client/go"
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
	created, err := s.Create(cmd.Context(), megaphone.CreateOptions{})
	if err != nil {
		return siteError(err)
	}
	if flag(cmd.Flags().GetBool, "json") {
		return printLine(cmd.OutOrStdout(), created.JSON)
	}
	table := newTable(cmd.OutOrStdout())
	fmt.Fprintf(table, "producer address\t%s\nconsumer address\t%s\n", printable(created.ProducerAddress), printable(created.ConsumerAddress))
	return table.Flush()
}
