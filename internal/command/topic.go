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

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/caddy-megaphone/megaphone/internal/admin"
	"github.com/caddy-megaphone/megaphone/internal/jsontext"
)

// topicCommand returns the command for topics.
func topicCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "topic <command>",
		Short: "Lists topics, changes their members, publishes to them and closes them",
		Long: `Lists topics, changes their members, publishes to them and closes them.

A topic is a set of channels, its members. A message that is published to a
topic is put into each of them. The name of a topic is not a secret. A topic
exists while it has members or a memory, so any name can be shown, joined and
published to.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, c := range []*cobra.Command{
		topicListCommand(), topicShowCommand(), topicJoinCommand(), topicLeaveCommand(), topicPublishCommand(), topicCloseCommand(),
	} {
		c.DisableFlagsInUseLine = true
		addAdminFlags(c)
		cmd.AddCommand(c)
	}
	return cmd
}

func topicListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [--prefix <text>] [--min-members <n>] [--limit <topics>] [--json]",
		Short: "Lists topics",
		Long: `Lists the topics that match all of the given flags.

The command reads the list page by page: topics that begin or end meanwhile may
be missing. With --json, each topic is one line.`,
		Example: `  $ caddy megaphone topic list
  $ caddy megaphone topic list --prefix room/ --min-members 100
  $ caddy megaphone topic list --json | jq -r .topic`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              run(runTopicList),
	}
	cmd.Flags().String("prefix", "", "Only topics whose names begin with this text")
	cmd.Flags().Int("min-members", 0, "Only topics with at least this many members")
	cmd.Flags().Int("limit", 0, "Maximum number of topics to list; 0 means all")
	addJSONFlag(cmd, "Print each topic as one line of JSON")
	return cmd
}

func runTopicList(cmd *cobra.Command, _ []string) error {
	flags := cmd.Flags()
	limit, asJSON := flag(flags.GetInt, "limit"), flag(flags.GetBool, "json")
	if limit < 0 {
		return errors.New("--limit must not be negative")
	}
	query := url.Values{}
	if prefix := flag(flags.GetString, "prefix"); prefix != "" {
		query.Set("prefix", prefix)
	}
	if flags.Changed("min-members") {
		query.Set("min_members", strconv.Itoa(flag(flags.GetInt, "min-members")))
	}
	out := bufio.NewWriter(cmd.OutOrStdout())
	table := newTable(out)
	if !asJSON {
		fmt.Fprintln(table, "TOPIC\tMEMBERS\tCONNECTED\tKEPT\tCLOSED")
	}
	api := newAdminAPI(cmd)
	for listed, more := 0, true; more; {
		size := admin.MaxPage
		if limit > 0 {
			size = min(size, limit-listed)
		}
		query.Set("limit", strconv.Itoa(size))
		var page admin.TopicListReply
		if err := api.get(cmd.Context(), "topics?"+query.Encode(), &page); err != nil {
			return err
		}
		for _, t := range page.Topics {
			if asJSON {
				if err := printJSON(out, t); err != nil {
					return err
				}
				continue
			}
			fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%s\n", printable(t.Name), t.Members, t.Connected, t.Kept, closedAs(t))
		}
		listed += len(page.Topics)
		query.Set("cursor", page.Next)
		more = page.Next != "" && (limit == 0 || listed < limit)
	}
	return errors.Join(table.Flush(), out.Flush())
}

// closedAs says how a topic was closed.
func closedAs(t admin.Topic) string {
	if t.Closed == nil {
		return "-"
	}
	return printable(*t.Closed)
}

func topicShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show <topic> [--json]",
		Short: "Shows a topic",
		Long: `Shows how many members a topic has, how many of them are connected, and what it
keeps.`,
		Example:           "  $ caddy megaphone topic show news",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTopics,
		RunE:              run(runTopicShow),
	}
	addJSONFlag(cmd, "Print the topic as JSON")
	return cmd
}

func runTopicShow(cmd *cobra.Command, args []string) error {
	return callTopic(cmd, http.MethodGet, args[0], "", nil, printTopic)
}

func printTopic(w io.Writer, t admin.Topic) error {
	table := newTable(w)
	fmt.Fprintf(table, "topic\t%s\nmembers\t%d\nconnected\t%d\n", printable(t.Name), t.Members, t.Connected)
	fmt.Fprintf(table, "kept\t%d messages, %s of %s, for %s\n", t.Kept, humanize.IBytes(uint64(max(0, t.KeptBytes))),
		humanize.IBytes(uint64(max(0, t.Keep))), printable(t.TTL))
	fmt.Fprintf(table, "closed\t%s\n", closedAs(t))
	return table.Flush()
}

func topicJoinCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join <topic> <id or address>... [--last <n> | --last all] [--json]",
		Short: "Makes channels members of a topic",
		Long: `Makes channels members of a topic, by id or by one of their addresses. With
--last, they get the newest messages that the topic keeps. Channels that are
members already get nothing.`,
		Example: `  $ caddy megaphone topic join news 0000002a9f3c1b22
  $ caddy megaphone topic join news --last all $PRODUCER`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: completeMembers,
		RunE:              run(runTopicJoin),
	}
	cmd.Flags().String("last", "", "How many of the kept messages the channels get first, or all")
	addJSONFlag(cmd, "Print the result as JSON")
	return cmd
}

func runTopicJoin(cmd *cobra.Command, args []string) error {
	body := map[string]any{"channels": args[1:]}
	switch last := flag(cmd.Flags().GetString, "last"); last {
	case "":
	case "all":
		body["last"] = last
	default:
		n, err := strconv.Atoi(last)
		if err != nil || n < 0 {
			return fmt.Errorf("--last: %q is neither a whole number nor all", last)
		}
		body["last"] = n
	}
	return changeMembers(cmd, args, "join", "joined", body)
}

func topicLeaveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "leave <topic> <id or address>... [--json]",
		Short: "Ends memberships of channels in a topic",
		Long: `Ends the memberships of channels in a topic, by id or by one of their addresses.
The channels stay.`,
		Example:           "  $ caddy megaphone topic leave news 0000002a9f3c1b22",
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: completeMembers,
		RunE:              run(runTopicLeave),
	}
	addJSONFlag(cmd, "Print the result as JSON")
	return cmd
}

func runTopicLeave(cmd *cobra.Command, args []string) error {
	return changeMembers(cmd, args, "leave", "left", namesBody(args[1:]))
}

// changeMembers makes the channels args[1:] join or leave the topic args[0].
func changeMembers(cmd *cobra.Command, args []string, action, done string, body any) error {
	var missing int
	err := callTopic(cmd, http.MethodPost, args[0], action, body, func(w io.Writer, reply admin.MembersReply) error {
		_, err := fmt.Fprintf(w, "%s %d\n", done, reply.Done)
		missing = len(reply.NotFound)
		return err
	})
	if err != nil {
		return err
	}
	return missingError(missing, len(args)-1)
}

func topicPublishCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "publish <topic> <stream id> <body> [--text] [--key <key>] [--full hold | --full delete] [--json]",
		Short: "Publishes a message to a topic",
		Long: `Publishes a message to all members of a topic.

The body is one JSON value. With --text, it is any text, and goes out as a JSON
string. Members whose channel is full miss the message. With --full hold, the
command waits for them as long as the setting hold says; with --full delete,
their channels are deleted.`,
		Example: `  $ caddy megaphone topic publish news headlines '{"title":"Hello"}'
  $ caddy megaphone topic publish --text room/1 chat "Hello, world"`,
		Args:              cobra.ExactArgs(3),
		ValidArgsFunction: completeTopics,
		RunE:              run(runTopicPublish),
	}
	cmd.Flags().Bool("text", false, "Treat the body as text, and publish it as a JSON string")
	cmd.Flags().String("key", "", "Idempotency key of the message: publishing it again has no effect")
	cmd.Flags().String("full", "", "What becomes of members without room: hold or delete")
	_ = cmd.RegisterFlagCompletionFunc("full", cobra.FixedCompletions([]string{"hold", "delete"}, cobra.ShellCompDirectiveNoFileComp))
	addJSONFlag(cmd, "Print the result as JSON")
	return cmd
}

func runTopicPublish(cmd *cobra.Command, args []string) error {
	flags := cmd.Flags()
	content := []byte(args[2])
	if flag(flags.GetBool, "text") {
		content = jsontext.AppendString(nil, args[2])
	} else if !json.Valid(content) {
		return fmt.Errorf("%s is not JSON: quote it as JSON, or use --text", args[2])
	}
	body := map[string]any{"streamId": args[1], "body": json.RawMessage(content)}
	for _, name := range []string{"key", "full"} {
		if value := flag(flags.GetString, name); value != "" {
			body[name] = value
		}
	}
	return callTopic(cmd, http.MethodPost, args[0], "publish", body, func(w io.Writer, p admin.PublishReply) error {
		_, err := fmt.Fprintf(w, "%d of %d members have taken it, %d had no room\n", p.Accepted, p.Members, p.Full)
		return err
	})
}

func topicCloseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "close <topic> [--aborted] [--stream <stream id>] [--json]",
		Short: "Closes a topic",
		Long: `Closes a topic: members that know topics get a last message, and publishing to
the topic is refused until it has ended.`,
		Example:           "  $ caddy megaphone topic close answer/42",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeTopics,
		RunE:              run(runTopicClose),
	}
	cmd.Flags().Bool("aborted", false, "Say that the topic was aborted, not done")
	cmd.Flags().String("stream", "", "Stream id of the last message, if it is not the topic's name")
	addJSONFlag(cmd, "Print the topic as JSON")
	return cmd
}

func runTopicClose(cmd *cobra.Command, args []string) error {
	body := map[string]string{"as": "done"}
	if flag(cmd.Flags().GetBool, "aborted") {
		body["as"] = "aborted"
	}
	if stream := flag(cmd.Flags().GetString, "stream"); stream != "" {
		body["streamId"] = stream
	}
	return callTopic(cmd, http.MethodPost, args[0], "close", body, printTopic)
}

// callTopic makes a request about a topic, and prints the reply: as it is with --json, otherwise with show.
func callTopic[T any](cmd *cobra.Command, method, topic, action string, body any, show func(io.Writer, T) error) error {
	path := topicPath(topic)
	if action != "" {
		path += "/" + action
	}
	text, err := newAdminAPI(cmd).fetch(cmd.Context(), method, path, body)
	if err != nil {
		return err
	}
	var reply T
	if err := decodeReply(text, &reply); err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if flag(cmd.Flags().GetBool, "json") {
		if err := printLine(out, text); err != nil {
			return err
		}
		out = io.Discard
	}
	return show(out, reply)
}

// topicPath returns the path of a topic in the admin API. It escapes dots, because the names . and .. would not be segments.
func topicPath(topic string) string {
	return "topics/" + strings.ReplaceAll(url.PathEscape(topic), ".", "%2E")
}

// completeTopics completes the name of a topic as the first argument. It offers only the first 200.
func completeTopics(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var page admin.TopicListReply
	query := url.Values{"limit": {"200"}}
	if prefix != "" {
		query.Set("prefix", prefix)
	}
	if err := newAdminAPI(cmd).get(cmd.Context(), "topics?"+query.Encode(), &page); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names := make([]string, 0, len(page.Topics))
	for _, t := range page.Topics {
		names = append(names, fmt.Sprintf("%s\t%d members", t.Name, t.Members))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeMembers completes a topic, and then the ids of channels.
func completeMembers(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return completeTopics(cmd, args, prefix)
	}
	return completeIDs(cmd, args, prefix)
}
