package integration

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-megaphone/megaphone"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

var update = flag.Bool("update", false, "write the current results into the golden files")

// separator separates the two parts of a golden file: a Caddyfile, and what it adapts to. That is JSON, or the text of
// an error.
const separator = "----------\n"

// TestCaddyfiles adapts each Caddyfile in the folder caddyfile. If a file's name begins with mistake, the file has one.
// The error names the line and the remedy.
func TestCaddyfiles(t *testing.T) {
	files, err := filepath.Glob("caddyfile/*.caddytest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".caddytest")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			config, want, ok := strings.Cut(string(text), separator)
			if !ok {
				t.Fatal("the file has no separator")
			}
			got := adapted(t, config, strings.HasPrefix(name, "mistake"))
			if *update {
				if err := os.WriteFile(file, []byte(config+separator+got+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != strings.TrimSpace(want) {
				t.Errorf("got\n%s", got)
			}
		})
	}
}

// adapted returns what a Caddyfile adapts to. If it must have a mistake, adapted returns the text of the error.
func adapted(t *testing.T, config string, mistake bool) string {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	switch {
	case !mistake && err != nil:
		t.Fatal(err)
	case !mistake:
		var indented bytes.Buffer
		if err := json.Indent(&indented, adapted, "", "\t"); err != nil {
			t.Fatal(err)
		}
		return indented.String()
	case err == nil:
		t.Fatalf("the adapter does not find the mistake:\n%s", adapted)
	case !regexp.MustCompile(`, at Caddyfile:\d+`).MatchString(err.Error()):
		t.Fatalf("the error does not name the line: %v", err)
	}
	return err.Error()
}

// TestCaddyfileAndJSONAgree checks that the modules read all the JSON that a Caddyfile adapts to, and write the same
// JSON.
func TestCaddyfileAndJSONAgree(t *testing.T) {
	for _, name := range []string{
		"good_all_settings", "good_agent_placeholder", "good_all_options", "good_broker_memory", "good_cors", "good_defaults", "good_metrics_compat",
	} {
		text, err := os.ReadFile("caddyfile/" + name + ".caddytest")
		if err != nil {
			t.Fatal(err)
		}
		_, config, _ := strings.Cut(string(text), separator)
		var root map[string]any
		if err := json.Unmarshal([]byte(config), &root); err != nil {
			t.Fatal(err)
		}
		apps := root["apps"].(map[string]any)
		if app, ok := apps["megaphone"]; ok {
			keepsAll(t, app, new(megaphone.App))
		}
		for _, handler := range handlers(apps) {
			delete(handler, "handler") // belongs to Caddy
			keepsAll(t, handler, new(megaphone.Handler))
		}
	}
}

// handlers returns all megaphone handlers in a configuration, at any depth.
func handlers(config any) (found []map[string]any) {
	switch v := config.(type) {
	case map[string]any:
		if v["handler"] == "megaphone" {
			return []map[string]any{v}
		}
		for _, member := range v {
			found = append(found, handlers(member)...)
		}
	case []any:
		for _, element := range v {
			found = append(found, handlers(element)...)
		}
	}
	return found
}

// keepsAll checks that a module reads all of its configuration and writes the same.
func keepsAll(t *testing.T, config, module any) {
	t.Helper()
	before, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.StrictUnmarshalJSON(before, module); err != nil {
		t.Fatal(err)
	}
	after, err := json.Marshal(module)
	if err != nil {
		t.Fatal(err)
	}
	var again any
	if err := json.Unmarshal(after, &again); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again, config) {
		t.Errorf("%s became %s", before, after)
	}
}

// TestMistakesInJSON has mistakes that only JSON can have, and mistakes that show only when a configuration is loaded.
func TestMistakesInJSON(t *testing.T) {
	app := func(settings string) string { return `"megaphone":` + settings }
	site := func(options string) string {
		return `"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"routes":[{"handle":[{"handler":"megaphone",` + options + `}]}]}}}`
	}
	for _, test := range []struct{ apps, want string }{
		{app(`{"bufer":1}`), `unknown field "bufer"`},
		{app(`{"buffer":"many"}`), `"buffer" has a string where a whole number belongs`},
		{app(`{"webhooks":[{"queue":[]}]}`), `has an array where a whole number belongs`},
		{app(`[]`), "there is an array where an object belongs"},
		{app(`{"hold":"-1s"}`), "hold must not be negative: use 0 for no wait, or leave it out for the default"},
		{app(`{"ttl":"4000d"}`), "ttl: 96000h0m0s is too long: use at most 3650d"},
		{app(`{"max_message_size":1073741825}`), "max_message_size: 1073741825 is too large: use at most 1GiB"},
		{app(`{"webhooks":[]}`), "webhooks is an empty list: name at least one, or leave it out for none"},
		{app(`{"webhooks":[null]}`), "webhook 1 is null: leave it out"},
		{app(`{"webhooks":[{"event":"channel_deleted","url":"http://a/","retries":1}]}`), `unknown field "retries"`},
		{app(`{"webhooks":[{"url":"http://127.0.0.1/"}]}`), `webhook 1: there is no event "": name one of channel_created`},
		{app(`{"webhooks":[{"event":"channel_deleted"}]}`), "webhook 1: the URL is not valid: use an http or https URL with a host"},
		{app(`{"metrics_compat":{}}`), "metrics_compat is an empty list: name at least one, or leave it out for none"},
		{app(`{"metrics_compat":["old"]}`), "metrics_compat must be true, for the names of the original Megaphone, or an object"},
		{app(`{"metrics_compat":false}`), "metrics_compat must be true"},
		{app(`{"metrics_compat":{"old":null}}`), `metrics_compat: old: there is no metric "": name one of caddy_megaphone_`},
		{app(`{"metrics_compat":{"old":"channels"}}`), `metrics_compat: old: there is no metric "channels": name one of caddy_megaphone_`},
		{app(`{"metrics_compat":{"old-one":"caddy_megaphone_channels"}}`), "metrics_compat: old-one: the old name is not a valid metric name"},
		{app(`{"hold":"soon"}`), `"soon"`},
		{app(`{"ttl":"-1m"}`), "ttl must be greater than zero"},
		{app(`{"agent":"eu.west"}`), `agent: "eu.west" is not a valid agent name: use letters, digits, _ and - only`},
		{app(`{"agent":"{env.MEGAPHONE_TEST_IS_NOT_SET}"}`), "agent: evaluated placeholder {env.MEGAPHONE_TEST_IS_NOT_SET} is empty"},
		{app(`{"broker":null}`), "broker is null: leave it out for memory"},
		{app(`{"broker":{}}`), "module name not specified with key 'module'"},
		{app(`{"broker":{"module":"disc"}}`), "unknown module: megaphone.brokers.disc"},
		{app(`{"broker":{"module":"memory","size":1}}`), `unknown field "size"`},
		{site(`"endpoint":["read"]`), `unknown field "endpoint"`},
		{site(`"endpoints":[]`), "endpoints is an empty list: name at least one, or leave it out for create, write, read, exists"},
		{site(`"transports":[]`), "transports is an empty list: name at least one, or leave it out for ndjson, sse, websocket, poll"},
		{site(`"cors_origins":[]`), "cors_origins is an empty list: name at least one, or leave it out for none but the site's own"},
		{site(`"websocket_protocols":[]`), "websocket_protocols is an empty list: name at least one, or leave it out for none"},
		{site(`"websocket_protocols":["a b"]`), `"a b" is not a WebSocket subprotocol`},
		{site(`"endpoints":["reed"]`), `there is no endpoint "reed": name any of create, write, read, exists`},
		{site(`"endpoints":["read","read"]`), `endpoint "read" is named twice`},
		{site(`"transports":["http"]`), `there is no transport "http": name any of ndjson, sse, websocket, poll`},
		{site(`"cors_origins":["example.com"]`), `"example.com" is not a valid origin`},
		{site(`"cors_headers":[]`), "cors_headers is an empty list: name at least one, or leave it out for none but those that are always allowed"},
		{site(`"cors_headers":["X-A"]`), "cors_headers has no effect without cors_origins"},
		{site(`"cors_credentials":true`), "cors_credentials has no effect without cors_origins"},
		{site(`"cors_credentials":true,"cors_origins":["*"]`), "cors_credentials needs exact origins, and * in cors_origins stands for many: name each origin"},
	} {
		wantRefused(t, test.apps, test.want)
	}
}

// TestZeroInJSON checks that an explicit zero is not a default, in JSON as in a Caddyfile. A setting has its default if
// it is left out or null.
func TestZeroInJSON(t *testing.T) {
	app := func(settings string) string { return `"megaphone":{` + settings + `}` }
	webhook := func(settings string) string {
		return app(`"webhooks":[{"event":"channel_deleted","url":"http://127.0.0.1/",` + settings + `}]`)
	}
	for _, name := range []string{
		"buffer", "in_flight", "ttl", "read_duration", "stream_duration", "heartbeat", "write_timeout", "max_message_size",
		"max_channels", "max_memory", "max_readers", "max_channels_per_client",
	} {
		wantRefused(t, app(`"`+name+`":0`), name+" must be greater than zero: leave it out for ")
		wantRefused(t, app(`"`+name+`":-1`), name+" must be greater than zero: leave it out for ")
	}
	wantRefused(t, app(`"BUFFER":0`), "buffer must be greater than zero") // field names are matched without regard to case, as in encoding/json
	wantRefused(t, app(`"ttl":"0s"`), "ttl must be greater than zero")
	wantRefused(t, app(`"agent":""`), `agent: "" is not a valid agent name`)
	for _, name := range []string{"timeout", "give_up", "queue"} {
		wantRefused(t, webhook(`"`+name+`":0`), name+" must be greater than zero: leave it out for ")
		wantRefused(t, webhook(`"`+name+`":-1`), name+" must be greater than zero: leave it out for ")
	}
	wantRefused(t, webhook(`"secret":""`), "secret: it is empty: leave it out for requests without a signature")
	for _, apps := range []string{
		app(`"hold":0`), app(`"metrics_compat":true`), app(`"max_message_size":1073741824`), app(`"buffer":null,"hold":null,"agent":null,"webhooks":null,"metrics_compat":null`), webhook(`"queue":null,"secret":null`),
	} {
		if err := validate(t, apps); err != nil {
			t.Errorf("%s: %v", apps, err)
		}
	}
}

// TestLongDurationsInJSON checks that a duration cannot be so long that the time at its end has no
// representation.
func TestLongDurationsInJSON(t *testing.T) {
	for _, name := range []string{"hold", "ttl", "read_duration", "stream_duration", "heartbeat", "write_timeout"} {
		wantRefused(t, `"megaphone":{"`+name+`":9223372036854775807}`, name+": 2562047h47m16.854775807s is too long: use at most 3650d")
		if err := validate(t, `"megaphone":{"`+name+`":"3650d"}`); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"timeout", "give_up"} {
		wantRefused(t, `"megaphone":{"webhooks":[{"event":"channel_deleted","url":"http://127.0.0.1/","`+name+`":"3651d"}]}`,
			name+": 87624h0m0s is too long: use at most 3650d")
	}
}

// validate checks apps in JSON as caddy validate does.
func validate(t *testing.T, apps string) error {
	t.Helper()
	var config caddy.Config
	if err := json.Unmarshal([]byte(`{"admin":{"disabled":true},"apps":{`+apps+`}}`), &config); err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(&config)
}

func wantRefused(t *testing.T, apps, want string) {
	t.Helper()
	if err := validate(t, apps); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, want %q", apps, err, want)
	}
}

func TestExampleIsAModel(t *testing.T) {
	example, err := os.ReadFile("../example.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	if formatted := caddyfile.Format(example); !bytes.Equal(formatted, example) {
		t.Errorf("caddy fmt changes the example to\n%s", formatted)
	}
	_, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(example, nil)
	if err != nil || len(warnings) > 0 {
		t.Errorf("%v, warnings %v", err, warnings)
	}
}

// TestExampleValidateOpensNothing checks that validating a configuration listens nowhere, and leaves behind no file and
// no process.
func TestExampleValidateOpensNothing(t *testing.T) {
	t.Parallel()
	example, err := filepath.Abs("../example.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	s := testserver.New(t)
	// The port is taken, so validate fails if it tries to listen there.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	taken := fmt.Sprintf("{\n\tadmin 127.0.0.1:%[1]d\n\tmegaphone {\n\t\tbuffer 1\n\t}\n}\nhttp://:%[1]d {\n\tmegaphone\n}\n", port)
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(taken), 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err := s.Command("validate", "--config", file).CombinedOutput(); err != nil || !bytes.Contains(output, []byte("Valid configuration")) {
		t.Errorf("%v\n%s", err, output)
	}
	left, err := os.ReadDir(s.Dir)
	if err != nil || len(left) > 0 {
		t.Errorf("validate left behind %v, %v", left, err)
	}

	output, err := s.Command("validate", "--config", example).CombinedOutput()
	if err != nil || !bytes.Contains(output, []byte("Valid configuration")) {
		t.Errorf("%v\n%s", err, output)
	}
	if output, err := s.Command("fmt", "--diff", example).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

// TestMistakeOnTheCommandLine checks that the command line reports a mistake with file, line and remedy.
func TestMistakeOnTheCommandLine(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	file := filepath.Join(s.Dir, "Caddyfile")
	if err := os.WriteFile(file, []byte("{\n\tmegaphone {\n\t\tbufer 1\n\t}\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	output, err := s.Command("validate", "--config", file, "--adapter", "caddyfile").CombinedOutput()
	want := `unrecognized setting \"bufer\" of megaphone: use one of agent, broker, buffer,` // quoted as in the log
	if err == nil || !bytes.Contains(output, []byte(want)) || !bytes.Contains(output, []byte(file+":3")) {
		t.Errorf("%v\n%s", err, output)
	}
}
