package integration

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	_ "github.com/caddy-megaphone/megaphone"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// readmeBlock returns the first fenced block of a language in the README.
func readmeBlock(t *testing.T, language string) string {
	t.Helper()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^```" + language + "\n(.*?)^```$").FindSubmatch(readme)
	if block == nil {
		t.Fatalf("the README has no block of %s", language)
	}
	return string(block[1])
}

func TestReadmeShowsTheSameConfigurationTwice(t *testing.T) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(readmeBlock(t, "caddyfile")), nil)
	if err != nil {
		t.Fatal(err)
	}
	var fromCaddyfile, fromJSON any
	if err := json.Unmarshal(adapted, &fromCaddyfile); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(readmeBlock(t, "json")), &fromJSON); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(fromCaddyfile, fromJSON) {
		t.Errorf("the README's JSON differs from its Caddyfile, which is\n%s", adapted)
	}
}

func TestReadmeTourRunsAsItStands(t *testing.T) {
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	example, err := os.ReadFile("../example.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	s := testserver.New(t)
	// Nothing is changed but the ports, and where certificates are kept.
	site := fmt.Sprint(testserver.FreePort(t))
	ports := strings.NewReplacer(
		"8443", site, "3000", fmt.Sprint(testserver.FreePort(t)),
		"8081", fmt.Sprint(testserver.FreePort(t)), "8080", fmt.Sprint(testserver.FreePort(t)))
	s.StartFile(strings.Replace(ports.Replace(string(example)), "{\n", fmt.Sprintf("{\n\tadmin unix/%s\n", s.Socket("admin")), 1))
	s.Await("the site has its certificate", func() bool {
		dialer := tls.Dialer{Config: &tls.Config{RootCAs: s.Roots()}}
		conn, err := dialer.DialContext(t.Context(), "tcp", "localhost:"+site)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})

	// The reader is ended instead of after its 20 seconds.
	tour := ports.Replace(readmeBlock(t, "sh")) + "\nsleep 1; kill %1\n"
	output, err := exec.CommandContext(t.Context(), "bash", "-c", tour).CombinedOutput()
	text := string(output)
	if err != nil || !strings.Contains(text, `{"status":"OK"}`) ||
		!regexp.MustCompile(`\{"sid":"chat","eid":"[^"]+","ts":"[^"]+","body":\{"text":"hello"\}\}\n`).MatchString(text) {
		t.Errorf("%v:\n%s", err, text)
	}
}
