package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-megaphone/megaphone/internal/admin"
	"github.com/caddy-megaphone/megaphone/internal/jsontext"
)

// addAdminFlags adds the flags that say where the admin API is. Caddy's own commands have the same.
func addAdminFlags(cmd *cobra.Command) {
	cmd.Flags().String("address", "", "Address of the admin API, if different from config")
	cmd.Flags().StringP("config", "c", "", "Configuration file to read the admin address from, if --address is not used")
	cmd.Flags().StringP("adapter", "a", "", "Name of config adapter to apply (when --config is used)")
	_ = cmd.RegisterFlagCompletionFunc("address", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("adapter", cobra.NoFileCompletions)
}

// An adminAPI is the admin API of the server that the flags of a command name.
type adminAPI struct {
	address string
	config  string // a file
	adapter string
}

func newAdminAPI(cmd *cobra.Command) *adminAPI {
	flags := cmd.Flags()
	return &adminAPI{
		address: flag(flags.GetString, "address"),
		config:  flag(flags.GetString, "config"),
		adapter: flag(flags.GetString, "adapter"),
	}
}

// adminTimeout is the longest time for a request to the admin API. No request but a backup does more than a few milliseconds
// of work.
const adminTimeout = time.Minute

// get makes a GET request to a path of the API, which may have a query, and decodes the reply into v.
func (a *adminAPI) get(ctx context.Context, path string, v any) error {
	return a.call(ctx, http.MethodGet, path, nil, v)
}

// call makes a request to a path of the API, and decodes the reply into v. The JSON of body is the request's body; nil
// means that it has none.
func (a *adminAPI) call(ctx context.Context, method, path string, body, v any) error {
	reply, err := a.fetch(ctx, method, path, body)
	if err != nil {
		return err
	}
	return decodeReply(reply, v)
}

// decodeReply decodes a reply of the admin API into v.
func decodeReply(reply []byte, v any) error {
	if err := json.Unmarshal(reply, v); err != nil {
		return fmt.Errorf("cannot decode the reply of the admin API: %s; is it the admin API? --address and --config name another address",
			jsontext.Explain(err))
	}
	return nil
}

// fetch is like call, but returns the reply as it is.
func (a *adminAPI) fetch(ctx context.Context, method, path string, body any) ([]byte, error) {
	return a.fetchWithin(ctx, adminTimeout, method, path, body)
}

// fetchWithin is like fetch, for a request that may take longer than others.
func (a *adminAPI) fetchWithin(ctx context.Context, timeout time.Duration, method, path string, body any) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("the admin API did not answer within %v", timeout))
	defer cancel()
	return await(ctx, func() ([]byte, error) { return a.roundTrip(method, path, body) })
}

// roundTrip does the work of fetch. It cannot be interrupted.
func (a *adminAPI) roundTrip(method, path string, body any) ([]byte, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(a.address, nil, a.config, a.adapter)
	if err != nil {
		return nil, fmt.Errorf("cannot determine the address of the admin API: %w", err)
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
		return nil, adminError(address, err)
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

// refusalPattern finds status and body in the error that AdminAPIRequest returns for a reply that is not a success.
var refusalPattern = regexp.MustCompile(`(?s)HTTP (\d{3}): (.*)`)

// adminError tells the operator why a request to the admin API failed.
func adminError(address string, err error) error {
	parts := refusalPattern.FindStringSubmatch(err.Error())
	if parts == nil {
		return fmt.Errorf("the admin API at %s does not answer: %w; --address and --config say where it is", address, err)
	}
	var reply struct {
		Error string `json:"error"`
	}
	if json.Unmarshal([]byte(parts[2]), &reply) != nil || reply.Error == "" {
		return fmt.Errorf("the server at %s does not have Megaphone's admin API: %w; --address and --config name another one, and %s "+
			"says what it needs", address, err, admin.DocsURL)
	}
	status, _ := strconv.Atoi(parts[1])
	return httpError(status, reply.Error)
}

// channels returns the channels that match a filter, which has parameters of the admin API. It requests page after
// page, up to limit channels, or all of them if limit is 0. If a request fails, its error ends the
// sequence.
func (a *adminAPI) channels(ctx context.Context, filter url.Values, limit int) iter.Seq2[admin.Channel, error] {
	return func(yield func(admin.Channel, error) bool) {
		query := maps.Clone(filter)
		for listed, more := 0, true; more; {
			size := admin.MaxPage
			if limit > 0 {
				size = min(size, limit-listed)
			}
			query.Set("limit", strconv.Itoa(size))
			var page admin.ListReply
			if err := a.get(ctx, "channels?"+query.Encode(), &page); err != nil {
				yield(admin.Channel{}, err)
				return
			}
			for _, c := range page.Channels {
				if !yield(c, nil) {
					return
				}
			}
			listed += len(page.Channels)
			query.Set("cursor", page.Next)
			more = page.Next != "" && (limit == 0 || listed < limit)
		}
	}
}

// namesBody is the body of a request that names channels, by id or address.
func namesBody(names []string) any { return map[string][]string{"channels": names} }

// completeIDs completes the ids of channels. It offers only the first 200.
func completeIDs(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var page admin.ListReply
	if err := newAdminAPI(cmd).get(cmd.Context(), "channels?limit=200", &page); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var ids []string
	for _, c := range page.Channels {
		ids = append(ids, fmt.Sprintf("%s\t%s, %d pending, age %s", c.ID, c.Agent, c.Pending, since(&c.Created)))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
