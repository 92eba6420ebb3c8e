package redismodule

import (
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestSettingsOfTheBrokerRedisAreDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "settings.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "\n## The broker redis\n")
	text, _, _ = strings.Cut(text, "\n## ")
	docs := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([^|]+) \\| [^|]+ \\|$").FindAllStringSubmatch(text, -1) {
		docs[row[1]] = strings.Trim(row[2], "`")
	}
	unset := []string{"off", "none"} // what the page writes for a setting without a default
	for name, set := range new(RedisBroker).settings() {
		text, ok := docs[name]
		delete(docs, name)
		switch {
		case !ok:
			t.Errorf("docs/settings.md lacks %s", name)
		case slices.Contains(unset, text):
		case name == "address" || name == "durability":
			if err := new(RedisBroker).UnmarshalCaddyfile(caddyfile.NewTestDispenser("redis {\n" + name + " " + text + "\n}")); err != nil {
				t.Errorf("docs/settings.md: %v", err)
			}
		default:
			if err := set.Set(text); err != nil {
				t.Errorf("docs/settings.md: %s: %v", name, err)
			}
		}
	}
	for name := range docs {
		t.Errorf("docs/settings.md has the setting %s, which does not exist", name)
	}
}

// TestRedisSettings: mistakes in JSON, and in what placeholders stand for, are found without a connection.
func TestRedisSettings(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	t.Setenv("ADDRESS", "redis://localhost")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ settings, want string }{
		{`{}`, ""},
		{`{"addresses":["a:1"],"password":"{env.HOME}","keys":"0123456789abcdef","durability":"replica 2"}`, ""},
		{`{"addresses":["{env.ADDRESS}"]}`, `"redis://localhost" is a URL: write host:port`},
		{`{"password":"{env.NO_SUCH_VARIABLE}"}`, "password: "},
		{`{"addresses":["a:1","b:1"]}`, "add sentinel <name> or cluster"},
		{`{"durability":"two"}`, "use none, replica and a number of replicas"},
		{`{"timeout":-1}`, "use durations above zero"},
		{`{"database":-1}`, "use 0 or more"},
		{`{"keys":"short"}`, "use 16 or more"},
		{`{"password_file":"/no/such/file"}`, "password_file: open /no/such/file"},
		{fmt.Sprintf(`{"password_file":%q}`, empty), "is empty: write the password into it"},
		{`{"tls":{"ca":"/no/such/file"}}`, "tls: ca: open /no/such/file"},
		{fmt.Sprintf(`{"tls":{"ca":%q}}`, empty), "has no certificate in PEM"},
		{`{"tls":{"cert":"a"}}`, "cert and key belong together"},
		{`{"tsl":{}}`, "tsl"},
	} {
		r := new(RedisBroker)
		err := caddy.StrictUnmarshalJSON([]byte(test.settings), r)
		if err == nil {
			err = r.Provision(ctx)
		}
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.settings, err, test.want)
		}
	}
}

// TestFilesCountAsSettings: a certificate that was renewed under the same name is used after a reload. A Broker with the same key
// would go on with the old one.
func TestFilesCountAsSettings(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	dir := t.TempDir()
	password, ca := filepath.Join(dir, "password"), filepath.Join(dir, "ca.pem")
	key := func(secret string, certificates []byte) string {
		t.Helper()
		r := &RedisBroker{PasswordFile: password, TLS: &RedisTLS{CA: ca}}
		err := os.WriteFile(password, []byte(secret), 0o600)
		if err == nil {
			err = os.WriteFile(ca, certificates, 0o600)
		}
		if err == nil {
			err = r.Provision(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		return r.BrokerKey()
	}
	first := key("secret", authority)
	if key("secret", authority) != first {
		t.Error("the same settings have two keys")
	}
	if key("other", authority) == first {
		t.Error("another password has the same key")
	}
	if key("secret", append(authority, authority...)) == first {
		t.Error("other certificates have the same key")
	}
}
