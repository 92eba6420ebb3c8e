package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

	// The reader is ended once it has the message, instead of after its 20 seconds.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", ports.Replace(readmeBlock(t, "sh"))+"\nread; kill %1\n")
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
