package megaphone_test

import (
	"reflect"
	"regexp"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-megaphone/megaphone"
)

// FuzzCaddyfile checks that the parsers never panic, that every error names its line, and that settings survive the way
// to JSON and back. The folder integration/caddyfile has examples of what a Caddyfile becomes.
func FuzzCaddyfile(f *testing.F) {
	for _, seed := range []string{
		"megaphone", "megaphone {\n}", "megaphone x", "megaphone {", "megaphone }", "megaphone {\n{\n", "{\n}", "megaphone \"\"",
		"megaphone {\nagent west\nbuffer 1\nin_flight 2\nhold 0s\nttl 1d\n}", "megaphone {\nagent {env.A}\n}",
		"megaphone {\nread_duration 1s\nstream_duration 1h\nheartbeat 1ms\nwrite_timeout 1m\n}",
		"megaphone {\nmax_message_size 2MB\nmax_channels 3\nmax_memory 1GiB\n}", "megaphone {\nbuffer 1 {\nx\n}\n}",
		"megaphone {\nhold\n}", "megaphone {\nttl 1 2\n}", "megaphone {\nbuffer 1\nbuffer 1\n}", "megaphone {\nmax_memory -1\n}",
		"megaphone {\nmetrics_compat {\nold caddy_megaphone_channels\n}\n}", "megaphone {\nmetrics_compat {\nold\n}\n}",
		"megaphone create write read exists {\ntransports ndjson sse websocket poll\ncors_origins * https://*.a.b\nwebsocket_compression\nndjson_redelivery\ndirect_writes off\ndetached_reads off\n}",
		"megaphone read write read", "megaphone {\ntransports {\nsse\n}\n}", "megaphone {\ncors_origins https://a:b@c/d?e#f\n}",
	} {
		f.Add(seed)
	}
	line := regexp.MustCompile(`, at Caddyfile:\d+$`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, module := range []caddyfile.Unmarshaler{new(megaphone.App), new(megaphone.Handler)} {
			tokens, err := caddyfile.Tokenize([]byte(text), "Caddyfile")
			if err != nil || len(tokens) == 0 {
				return // Caddy refuses it before the parsers see it
			}
			if err := module.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
				if !line.MatchString(err.Error()) {
					t.Errorf("%T: the error does not name its line: %v", module, err)
				}
				continue
			}
			again := reflect.New(reflect.TypeOf(module).Elem()).Interface()
			if err := caddy.StrictUnmarshalJSON(caddyconfig.JSON(module, nil), again); err != nil {
				t.Errorf("%T: %v", module, err)
			}
			if got, want := caddyconfig.JSON(again, nil), caddyconfig.JSON(module, nil); string(got) != string(want) {
				t.Errorf("%s became %s", want, got)
			}
		}
	})
}
