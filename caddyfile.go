package megaphone

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/metrics"
	"github.com/caddy-megaphone/megaphone/internal/setting"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("megaphone", parseGlobalOption)
	httpcaddyfile.RegisterHandlerDirective("megaphone", parseDirective)
	// After `respond`, which sites use to deny access, and before the handlers that answer every path.
	httpcaddyfile.RegisterDirectiveOrder("megaphone", httpcaddyfile.Before, "reverse_proxy")
}

// parseGlobalOption parses the global option megaphone. It may appear once.
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

// parseDirective parses the directive megaphone.
func parseDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the app from the global option. Every setting is optional:
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
//		max_ttl          <duration>
//		max_topics       <topics>
//		topic_keep       <size>
//		topic_ttl        <duration>
//		waiting_after    <duration>
//		inspect_messages
//		broker           <module> [...]
//		webhook <event> <url> {
//			secret  <secret>
//			timeout <duration>
//			give_up <duration>
//			queue   <events>
//		}
//		metrics_compat [{
//			<old name> <metric>
//		}]
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the option's name
	if d.NextArg() {
		return d.Errf("the global option megaphone takes no argument: leave out %q, and write the settings in a block",
			d.Val())
	}
	settings := a.settings()
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		set, ok := settings[name]
		if !ok {
			return d.Errf("unrecognized setting %q of megaphone: use one of %s", name, setting.Names(settings))
		}
		if name == "webhook" {
			if err := a.unmarshalWebhook(d); err != nil {
				return err
			}
			continue
		}
		if seen[name] {
			return setting.ErrRepeated(d, name)
		}
		seen[name] = true
		var err error
		switch name {
		case "inspect_messages":
			a.InspectMessages = true
			err = setting.NoValue(d, name)
		case "metrics_compat":
			err = a.unmarshalMetricsCompat(d)
		case "broker":
			err = a.unmarshalBroker(d)
		default:
			err = set.Parse(d, name)
		}
		if err != nil {
			return err
		}
	}
	if err := a.checkMaxTTL(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// settings returns the app's settings by name.
func (a *App) settings() map[string]setting.Value {
	return map[string]setting.Value{
		"agent":            setting.New(a.parseAgent, "west-1"),
		"buffer":           setting.Count(&a.Buffer, "100"),
		"in_flight":        setting.Count(&a.InFlight, "100"),
		"hold":             setting.New(a.parseHold, "10s"),
		"ttl":              setting.Duration(&a.TTL, "1m"),
		"read_duration":    setting.Duration(&a.ReadDuration, "20s"),
		"stream_duration":  setting.Duration(&a.StreamDuration, "10m"),
		"heartbeat":        setting.Duration(&a.Heartbeat, "15s"),
		"write_timeout":    setting.Duration(&a.WriteTimeout, "10s"),
		"max_message_size": setting.Size(&a.MaxMessageSize, maxMaxMessageSize, maxMaxMessageSizeText, "2MB"),
		"max_channels":     setting.Count(&a.MaxChannels, "1000000"),
		"max_memory":       setting.Size(&a.MaxMemory, math.MaxInt64, "7EiB", "1GiB"),
		"max_readers":      setting.Count(&a.MaxReaders, "100000"),
		"inspect_messages": {}, // has no value
		"webhook":          {}, // has a block
		"metrics_compat":   {}, // has a block
		"broker":           {}, // is a module

		"max_ttl":    setting.Duration(&a.MaxTTL, "24h"),
		"max_topics": setting.Count(&a.MaxTopics, "1000"),
		"topic_keep": setting.New(a.parseTopicKeep, "1MB"),
		"topic_ttl":  setting.Duration(&a.TopicTTL, "1h"),

		"waiting_after": setting.Duration(&a.WaitingAfter, "30s"),

		"max_channels_per_client": setting.Count(&a.MaxChannelsPerClient, "100"),
	}
}

// UnmarshalCaddyfile sets up the handler from the directive. Without arguments it serves create, write, read and
// exists. Without the option transports it offers all transports:
//
//	megaphone [<matcher>] [create] [write] [read] [exists] [manage] [topics] [publish] [health] [ui] {
//		transports            [ndjson] [sse] [websocket] [poll]
//		cors_origins          <origin...>
//		cors_headers          <header...>
//		cors_credentials
//		websocket_compression
//		ndjson_redelivery
//		websocket_protocols   <subprotocol...>
//		direct_writes         on|off
//		detached_reads        on|off
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	h.Endpoints = d.RemainingArgs()
	if err := checkNames("endpoint", h.Endpoints, permissionNames); err != nil {
		return d.WrapErr(err)
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name, args := d.Val(), d.RemainingArgs()
		repeated, err := h.unmarshalOption(name, args)
		switch {
		case repeated:
			return setting.ErrRepeated(d, name)
		case err != nil:
			return d.WrapErr(err)
		}
		if err := setting.NoBlock(d, name); err != nil {
			return err
		}
	}
	if err := h.checkCORS(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// unmarshalOption sets an option of the directive, and reports whether it was set before.
func (h *Handler) unmarshalOption(name string, args []string) (repeated bool, err error) {
	switch name {
	case "transports":
		repeated, h.Transports = h.Transports != nil, args
		if len(args) == 0 {
			return repeated, fmt.Errorf("transports takes one or more of %s: leave it out for all of them",
				strings.Join(transport.KindNames, ", "))
		}
		return repeated, checkNames("transport", args, transport.KindNames)
	case "cors_origins", "cors_headers", "cors_credentials":
		return h.unmarshalCORS(name, args)
	case "websocket_protocols":
		repeated, h.Protocols = h.Protocols != nil, args
		if len(args) == 0 {
			return repeated, errors.New("websocket_protocols takes one or more subprotocols, for example " +
				"graphql-transport-ws: leave it out for none")
		}
		return repeated, checkProtocols(args)
	case "websocket_compression":
		return turnOn(&h.Compression, name, args)
	case "ndjson_redelivery":
		return turnOn(&h.Redelivery, name, args)
	case "direct_writes":
		return parseSwitch(&h.DirectWrites, name, args)
	case "detached_reads":
		return parseSwitch(&h.DetachedReads, name, args)
	}
	return false, fmt.Errorf("unrecognized option %q of megaphone: use one of cors_credentials, cors_headers, "+
		"cors_origins, detached_reads, direct_writes, ndjson_redelivery, transports, websocket_compression, "+
		"websocket_protocols; settings of the whole server belong in the global option megaphone", name)
}

// turnOn sets an option that its name alone turns on, and reports whether it was set before.
func turnOn(option *bool, name string, args []string) (repeated bool, err error) {
	if repeated, *option = *option, true; len(args) > 0 {
		err = setting.ErrHasValue(name, args[0])
	}
	return repeated, err
}

// parseSwitch sets an option that is on unless it is turned off, and reports whether it was set before.
func parseSwitch(option **bool, name string, args []string) (repeated bool, err error) {
	if len(args) != 1 || args[0] != "on" && args[0] != "off" {
		return false, fmt.Errorf("%s takes on or off, but has %q: write %s off to turn it off, or leave it out", name,
			strings.Join(args, " "), name)
	}
	repeated = *option != nil
	on := args[0] == "on"
	*option = &on
	return repeated, nil
}

// unmarshalMetricsCompat sets up the old names of metrics from the setting metrics_compat. Without a block, they are those
// of the original Megaphone.
func (a *App) unmarshalMetricsCompat(d *caddyfile.Dispenser) error {
	const example = "caddy_megaphone_channels_created_total"
	if d.NextArg() {
		return d.Errf("metrics_compat takes no value: leave out %q, and write lines such as <old name> %s into a block",
			d.Val(), example)
	}
	a.MetricsCompat = OldNames{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if _, ok := a.MetricsCompat[name]; ok {
			return setting.ErrRepeated(d, name)
		}
		old := setting.New(func(metric string) error {
			a.MetricsCompat[name] = metric
			return metrics.CheckOldName(name, metric, a.MetricsCompat)
		}, example)
		if err := old.Parse(d, name); err != nil {
			return err
		}
	}
	if len(a.MetricsCompat) == 0 && d.Val() == "}" {
		return d.Errf("metrics_compat names no metric: write lines such as <old name> %s into its block, "+
			"or leave out the block for the names of the original Megaphone", example)
	}
	return nil
}

// parseAgent sets the agent. The check of a value with placeholders has to wait until the configuration is loaded.
func (a *App) parseAgent(value string) error {
	a.Agent = value
	if strings.Contains(value, "{") {
		return nil // loading the configuration replaces the placeholders
	}
	return broker.CheckAgent(value)
}

// parseHold sets hold, the only duration that may be zero.
func (a *App) parseHold(value string) error {
	hold, err := caddy.ParseDuration(value)
	if err != nil || hold < 0 || hold > setting.MaxDuration {
		return fmt.Errorf("%q is not a valid duration: use a duration from 0s (no wait) up to %s, for example 10s",
			value, setting.MaxDurationText)
	}
	a.Hold = (*caddy.Duration)(&hold)
	return nil
}

// parseTopicKeep sets topic_keep, the only size that may be zero.
func (a *App) parseTopicKeep(value string) error {
	n, err := humanize.ParseBytes(value)
	if err != nil || n > math.MaxInt64 {
		return fmt.Errorf("%q is not a valid size: use a size from 0 (none) up to 7EiB, for example 500KB, 1MB or 1GiB", value)
	}
	a.TopicKeep = int64(n)
	return nil
}

// Interface guards.
var (
	_ caddyfile.Unmarshaler = (*App)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
)
