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

// readmeBlock returns the README's first fenced block in a language.
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
		t.Errorf("the README's JSON differs from its Caddyfile, which adapts to\n%s", adapted)
	}
}

func TestReadmeTourRunsAsItStands(t *testing.T) {
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	_, ports := startExample(t)

	// The test ends the reader once it has the message, instead of waiting for its 20 seconds.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", ports.replacer().Replace(readmeBlock(t, "sh"))+"\nread; kill %1\n")
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
