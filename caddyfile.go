package megaphone

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/metrics"
	"github.com/caddy-megaphone/megaphone/internal/transport"
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
//		broker           <module> [...]
//		webhook <event> <url> {
//			secret  <secret>
//			timeout <duration>
//			give_up <duration>
//			queue   <announcements>
//		}
//		metrics_compat {
//			<old name> <metric>
//		}
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	settings := map[string]setting{
		"agent":            {a.parseAgent, "west-1"},
		"buffer":           count(&a.Buffer, "100"),
		"in_flight":        count(&a.InFlight, "100"),
		"hold":             {a.parseHold, "10s"},
		"ttl":              duration(&a.TTL, "1m"),
		"read_duration":    duration(&a.ReadDuration, "20s"),
		"stream_duration":  duration(&a.StreamDuration, "10m"),
		"heartbeat":        duration(&a.Heartbeat, "15s"),
		"write_timeout":    duration(&a.WriteTimeout, "10s"),
		"max_message_size": size(&a.MaxMessageSize, maxMaxMessageSize, maxMaxMessageSizeText, "2MB"),
		"max_channels":     count(&a.MaxChannels, "1000000"),
		"max_memory":       size(&a.MaxMemory, math.MaxInt64, "7EiB", "1GiB"),
		"max_readers":      count(&a.MaxReaders, "100000"),
		"inspect_messages": {}, // has no value
		"webhook":          {}, // has a block
		"metrics_compat":   {}, // has a block
		"broker":           {}, // is a module

		"max_channels_per_client": count(&a.MaxChannelsPerClient, "100"),
	}
	d.Next() // the option's name
	if d.NextArg() {
		return d.Errf("the global option megaphone takes no argument, but a block of settings; %q is too much", d.Val())
	}
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		set, ok := settings[name]
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
			return errRepeated(d, name)
		}
		seen[name] = true
		var err error
		switch name {
		case "inspect_messages":
			a.InspectMessages = true
			err = noValue(d, name)
		case "metrics_compat":
			err = a.unmarshalMetricsCompat(d)
		case "broker":
			err = a.unmarshalBroker(d)
		default:
			err = set.parse(d, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// UnmarshalCaddyfile sets up the handler from the directive. Without arguments it serves create, write,
// read and exists, and without a block it offers all transports:
//
//	megaphone [<matcher>] [create] [write] [megaphone.read] [exists] [manage] [health] [ui] {
//		transports            [transport.KindNDJSON] [transport.KindSSE] [websocket] [transport.KindPoll]
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
			err = checkNames("transport", args, transport.KindNames)
			if len(args) == 0 {
				err = fmt.Errorf("transports takes one value or more, of %s: leave it out for all", strings.Join(transport.KindNames, ", "))
			}
		case "cors_origins":
			repeated, h.CORSOrigins = h.CORSOrigins != nil, args
			err = checkOrigins(args)
			if len(args) == 0 {
				err = errors.New("cors_origins takes one value or more, such as https://www.example.com: " +
					"leave it out for none but the site's own")
			}
		case "websocket_compression":
			repeated, h.Compression = h.Compression, true
			if len(args) > 0 {
				err = errHasValue(name, args[0])
			}
		default:
			return d.Errf("unrecognized option %q of megaphone: there are cors_origins, transports, "+
				"websocket_compression; settings of the whole server go into the global option megaphone", name)
		}
		switch {
		case repeated:
			return errRepeated(d, name)
		case err != nil:
			return d.WrapErr(err)
		}
		if err := noBlock(d, name); err != nil {
			return err
		}
	}
	return nil
}

// unmarshalMetricsCompat sets up the old names from their setting in the global option.
func (a *App) unmarshalMetricsCompat(d *caddyfile.Dispenser) error {
	const example = "caddy_megaphone_channels_created_total"
	if d.NextArg() {
		return d.Errf("metrics_compat takes a block and no value: write lines such as <old name> %s into its block, and leave %q out",
			example, d.Val())
	}
	a.MetricsCompat = map[string]string{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if _, ok := a.MetricsCompat[name]; ok {
			return errRepeated(d, name)
		}
		old := setting{func(metric string) error {
			a.MetricsCompat[name] = metric
			return metrics.CheckOldName(name, metric, a.MetricsCompat)
		}, example}
		if err := old.parse(d, name); err != nil {
			return err
		}
	}
	if len(a.MetricsCompat) == 0 {
		return d.Errf("metrics_compat names no metric: write lines such as <old name> %s into its block, or leave it out", example)
	}
	return nil
}

func errRepeated(d *caddyfile.Dispenser, name string) error {
	return d.Errf("%s is already specified: leave one of its lines out", name)
}

func errHasValue(name, value string) error {
	return fmt.Errorf("%s takes no value: write it without %q to turn it on, or leave it out", name, value)
}

func noValue(d *caddyfile.Dispenser, name string) error {
	if d.NextArg() {
		return d.WrapErr(errHasValue(name, d.Val()))
	}
	return noBlock(d, name)
}

func noBlock(d *caddyfile.Dispenser, name string) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		return d.Errf("%s takes no block: leave out the braces after it, and what is between them", name)
	}
	return nil
}

// A setting is one that has one value.
type setting struct {
	set     func(value string) error
	example string
}

// parse reads the value of a setting.
func (s setting) parse(d *caddyfile.Dispenser, name string) error {
	switch args := d.RemainingArgs(); len(args) {
	case 1:
		if err := s.set(args[0]); err != nil {
			return d.Errf("%s: %v", name, err)
		}
	case 0:
		return d.Errf("%s takes one value, and has none: write for example %s %s", name, name, s.example)
	default:
		return d.Errf("%s takes one value, and has %d: write for example %s %s", name, len(args), name, s.example)
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
	return broker.CheckAgent(value)
}

func (a *App) parseHold(value string) error {
	hold, err := caddy.ParseDuration(value)
	if err != nil || hold < 0 || hold > maxDuration {
		return fmt.Errorf("%q is no duration up to %s: use for example 10s, or 0s for no wait", value, maxDurationText)
	}
	a.Hold = (*caddy.Duration)(&hold)
	return nil
}

func duration(field *caddy.Duration, example string) setting {
	return setting{func(value string) error {
		d, err := caddy.ParseDuration(value)
		if err != nil || d <= 0 || d > maxDuration {
			return fmt.Errorf("%q is no duration above zero and up to %s: use for example 500ms, 10s, 1m or 1d", value, maxDurationText)
		}
		*field = caddy.Duration(d)
		return nil
	}, example}
}

func count(field *int, example string) setting {
	return setting{func(value string) error {
		n, err := strconv.Atoi(value)
		if errors.Is(err, strconv.ErrRange) && n > 0 {
			return fmt.Errorf("%q is too large: use at most %d", value, math.MaxInt)
		}
		if err != nil || n <= 0 {
			return fmt.Errorf("%q is no whole number above zero: use for example %s, or leave it out", value, example)
		}
		*field = n
		return nil
	}, example}
}

func size(field *int64, limit uint64, limitText, example string) setting {
	return setting{func(value string) error {
		n, err := humanize.ParseBytes(value)
		if err != nil || n == 0 || n > limit {
			return fmt.Errorf("%q is no size above zero and up to %s: use for example 500KB, 2MB or 1GiB", value, limitText)
		}
		*field = int64(n) //nolint:gosec // at most the limit
		return nil
	}, example}
}

// Interface guards.
var (
	_ caddyfile.Unmarshaler = (*App)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
)
