package megaphone

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("megaphone", parseGlobalOption)
	httpcaddyfile.RegisterHandlerDirective("megaphone", parseDirective)
	// After `respond`, by which sites deny access, and before what answers every path.
	httpcaddyfile.RegisterDirectiveOrder("megaphone", httpcaddyfile.Before, "reverse_proxy")
}

func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	app := new(App)
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	if existing != nil {
		return nil, d.Err("the global option megaphone is already specified: put all settings in one block")
	}
	return httpcaddyfile.App{Name: "megaphone", Value: caddyconfig.JSON(app, nil)}, nil
}

func parseDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the app from the global option. Every setting may be left out:
//
//	megaphone {
//		agent            <name>
//		buffer           <messages>
//		in_flight        <messages>
//		hold             <duration>
//		ttl              <duration>
//		read_duration    <duration>
//		stream_duration  <duration>
//		heartbeat        <duration>
//		write_timeout    <duration>
//		max_message_size <size>
//		max_channels     <channels>
//		max_memory       <size>
//		max_readers      <readers>
//		max_channels_per_client <channels>
//		inspect_messages
//		webhook <event> <url> {
//			secret  <secret>
//			timeout <duration>
//			give_up <duration>
//			queue   <announcements>
//		}
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	settings := map[string]func(value string) error{
		"agent":            a.parseAgent,
		"buffer":           parseCount(&a.Buffer),
		"in_flight":        parseCount(&a.InFlight),
		"hold":             a.parseHold,
		"ttl":              parseDuration(&a.TTL),
		"read_duration":    parseDuration(&a.ReadDuration),
		"stream_duration":  parseDuration(&a.StreamDuration),
		"heartbeat":        parseDuration(&a.Heartbeat),
		"write_timeout":    parseDuration(&a.WriteTimeout),
		"max_message_size": parseSize(&a.MaxMessageSize),
		"max_channels":     parseCount(&a.MaxChannels),
		"max_memory":       parseSize(&a.MaxMemory),
		"max_readers":      parseCount(&a.MaxReaders),
		"inspect_messages": nil, // has no value
		"webhook":          nil, // has a block

		"max_channels_per_client": parseCount(&a.MaxChannelsPerClient),
	}
	d.Next() // the option's name
	if d.NextArg() {
		return d.Errf("the global option megaphone takes no argument, but a block of settings; %q is too much", d.Val())
	}
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		parse, ok := settings[name]
		if !ok {
			return d.Errf("unrecognized setting %q of megaphone: there are %s", name, names(settings))
		}
		if name == "webhook" {
			if err := a.unmarshalWebhook(d); err != nil {
				return err
			}
			continue
		}
		if seen[name] {
			return d.Errf("%s is already specified", name)
		}
		seen[name] = true
		if name == "inspect_messages" {
			a.InspectMessages = true
			if err := noValue(d, name); err != nil {
				return err
			}
			continue
		}
		if err := parseValue(d, name, parse); err != nil {
			return err
		}
	}
	return nil
}

// UnmarshalCaddyfile sets up the handler from the directive. Without arguments it serves create, write,
// read and exists, and without a block it offers all transports:
//
//	megaphone [<matcher>] [create] [write] [read] [exists] [manage] [health] [ui] {
//		transports            [ndjson] [sse] [websocket] [poll]
//		cors_origins          <origin...>
//		websocket_compression
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	h.Endpoints = d.RemainingArgs()
	if err := checkNames("endpoint", h.Endpoints, permissionNames); err != nil {
		return d.WrapErr(err)
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name, args := d.Val(), d.RemainingArgs()
		var repeated bool
		var err error
		switch name {
		case "transports":
			repeated, h.Transports = h.Transports != nil, args
			err = checkArgs(name, args, func() error { return checkNames("transport", args, transportNames) })
		case "cors_origins":
			repeated, h.CORSOrigins = h.CORSOrigins != nil, args
			err = checkArgs(name, args, func() error { return checkOrigins(args) })
		case "websocket_compression":
			repeated, h.Compression = h.Compression, true
			if len(args) > 0 {
				err = fmt.Errorf("%s takes no value", name)
			}
		default:
			return d.Errf("unrecognized option %q of megaphone: there are cors_origins, transports, "+
				"websocket_compression; settings of the whole server go into the global option megaphone", name)
		}
		switch {
		case repeated:
			return d.Errf("%s is already specified", name)
		case err != nil:
			return d.WrapErr(err)
		}
		if err := noBlock(d, name); err != nil {
			return err
		}
	}
	return nil
}

// checkArgs checks the values of an option, of which there must be one at least.
func checkArgs(name string, args []string, check func() error) error {
	if len(args) == 0 {
		return fmt.Errorf("%s takes one value or more", name)
	}
	return check()
}

func noValue(d *caddyfile.Dispenser, name string) error {
	if d.NextArg() {
		return d.Errf("%s takes no value", name)
	}
	return noBlock(d, name)
}

func noBlock(d *caddyfile.Dispenser, name string) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		return d.Errf("%s takes no block", name)
	}
	return nil
}

// parseValue reads the one value of a setting.
func parseValue(d *caddyfile.Dispenser, name string, parse func(value string) error) error {
	args := d.RemainingArgs()
	if len(args) != 1 {
		return d.Errf("%s takes one value, and has %d", name, len(args))
	}
	if err := parse(args[0]); err != nil {
		return d.Errf("%s: %v", name, err)
	}
	return noBlock(d, name)
}

func names[V any](m map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

func (a *App) parseAgent(value string) error {
	a.Agent = value
	if strings.Contains(value, "{") {
		return nil // has placeholders, which are replaced when the configuration is loaded
	}
	return checkAgent(value)
}

func (a *App) parseHold(value string) error {
	hold, err := caddy.ParseDuration(value)
	if err != nil || hold < 0 {
		return fmt.Errorf("%q is no duration: use for example 10s, or 0s for no wait", value)
	}
	a.Hold = (*caddy.Duration)(&hold)
	return nil
}

func parseDuration(setting *caddy.Duration) func(string) error {
	return func(value string) error {
		d, err := caddy.ParseDuration(value)
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is no duration above zero: use for example 500ms, 10s, 1m or 1d", value)
		}
		*setting = caddy.Duration(d)
		return nil
	}
}

func parseCount(setting *int) func(string) error {
	return func(value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n <= 0 {
			return fmt.Errorf("%q is no whole number above zero", value)
		}
		*setting = n
		return nil
	}
}

func parseSize(setting *int64) func(string) error {
	return func(value string) error {
		n, err := humanize.ParseBytes(value)
		if err != nil || n == 0 || int64(n) <= 0 { //nolint:gosec // the overflow is what is looked for
			return fmt.Errorf("%q is no size above zero: use for example 500KB, 2MB or 1GiB", value)
		}
		*setting = int64(n) //nolint:gosec // checked
		return nil
	}
}

// Interface guards.
var (
	_ caddyfile.Unmarshaler = (*App)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
)
