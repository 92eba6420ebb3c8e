package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	_ "github.com/caddy-megaphone/megaphone"
)

// firstBlock returns a page's first fenced block in a language.
func firstBlock(t *testing.T, page, language string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	found := blocks(string(text), language)
	if len(found) == 0 {
		t.Fatalf("%s has no block of %s", page, language)
	}
	return found[0]
}

func TestSettingsPageShowsTheSameConfigurationTwice(t *testing.T) {
	const page = "../docs/settings.md"
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(firstBlock(t, page, "caddyfile")), nil)
	if err != nil {
		t.Fatal(err)
	}
	var fromCaddyfile, fromJSON any
	if err := json.Unmarshal(adapted, &fromCaddyfile); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(firstBlock(t, page, "json")), &fromJSON); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(fromCaddyfile, fromJSON) {
		t.Errorf("the page's JSON differs from its Caddyfile, which adapts to\n%s", adapted)
	}
}

func TestReadmeTourRunsAsItStands(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	_, ports := startExample(t)

	// The test ends the reader once it has the message, instead of waiting for its 20 seconds.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", ports.replacer().Replace(firstBlock(t, "../README.md", "sh"))+"\nread; kill %1\n")
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text []byte
	message := regexp.MustCompile(`\{"sid":"chat","eid":"[^"]+","ts":"[^"]+","body":\{"text":"hello"\}\}\n`)
	complete := func() bool { return bytes.Contains(text, []byte(`{"status":"OK"}`)) && message.Match(text) }
	for piece := make([]byte, 1000); !complete(); {
		n, err := output.Read(piece)
		if text = append(text, piece[:n]...); err != nil {
			break
		}
	}
	input.Close()
	rest, err := io.ReadAll(output)
	if err := errors.Join(err, cmd.Wait()); err != nil || !complete() {
		t.Errorf("%v:\n%s%s", err, text, rest)
	}
}
