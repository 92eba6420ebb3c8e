package megaphone

import (
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// documented returns the settings in the tables of a section of docs/settings.md, with the defaults that they name.
func documented(t *testing.T, section string) map[string]string {
	t.Helper()
	page, err := os.ReadFile("docs/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "\n## "+section+"\n")
	if !found {
		t.Fatalf("docs/settings.md has no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	settings := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([^|]+) \\| [^|]+ \\|$").FindAllStringSubmatch(text, -1) {
		settings[row[1]] = strings.Trim(row[2], "`")
	}
	return settings
}

// fields returns the settings of a module, by their names in JSON.
func fields(module any) map[string]any {
	values := map[string]any{}
	v := reflect.Indirect(reflect.ValueOf(module))
	for i := range v.NumField() {
		if name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); name != "" {
			values[name] = v.Field(i).Interface()
		}
	}
	return values
}

// caddyfileNames has the settings whose name in a Caddyfile differs from the name in JSON.
var caddyfileNames = map[string]string{"webhooks": "webhook"}

// unset is what the page writes for a setting without a default.
var unset = []string{"off", "none", "no limit"}

func TestSettingsOfTheServerAreDocumented(t *testing.T) {
	docs := documented(t, "The whole server")
	var defaults App
	defaults.setDefaults()
	for name, want := range fields(&defaults) {
		written := name
		if other, ok := caddyfileNames[name]; ok {
			written = other
		}
		text, ok := docs[written]
		delete(docs, written)
		switch {
		case !ok:
			t.Errorf("docs/settings.md lacks %s", written)
		case slices.Contains(unset, text):
			if !reflect.ValueOf(want).IsZero() {
				t.Errorf("%s: docs/settings.md says %q, but the default is %v", written, text, want)
			}
		default:
			var app App
			if err := app.UnmarshalCaddyfile(caddyfile.NewTestDispenser("megaphone {\n" + written + " " + text + "\n}")); err != nil {
				t.Errorf("docs/settings.md: %v", err)
			} else if got := fields(&app)[name]; !reflect.DeepEqual(got, want) {
				t.Errorf("%s: docs/settings.md says %q, but the default is %v", written, text, want)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(docs)) {
		t.Errorf("docs/settings.md has the setting %s, which does not exist", name)
	}
}

// isSwitch reports whether a setting is on unless it is turned off.
func isSwitch(value any) bool {
	on, ok := value.(*bool)
	return ok && isOn(on)
}

func TestSettingsOfASiteAreDocumented(t *testing.T) {
	docs := documented(t, "One site")
	defaults := map[string][]string{"endpoints": standardPermissions, "transports": transport.KindNames}
	for name, value := range fields(&Handler{}) {
		text, ok := docs[name]
		delete(docs, name)
		switch all, list := defaults[name]; {
		case !ok:
			t.Errorf("docs/settings.md lacks %s", name)
		case list:
			if text != strings.Join(all, " ") {
				t.Errorf("%s: docs/settings.md says %q, but the default is %q", name, text, all)
			}
		case isSwitch(value):
			if text != "on" {
				t.Errorf("%s: docs/settings.md says %q, but the default is on", name, text)
			}
		case !slices.Contains(unset, text) || !reflect.ValueOf(value).IsZero():
			t.Errorf("%s: docs/settings.md says %q, but there is no default", name, text)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(docs)) {
		t.Errorf("docs/settings.md has the setting %s, which does not exist", name)
	}
	page, err := os.ReadFile("docs/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range permissionNames {
		if !strings.Contains(string(page), "\n| `"+name+"` | `") {
			t.Errorf("docs/settings.md lacks the endpoint %s", name)
		}
	}
}
