// Package examples tests that the examples work unchanged.
package examples

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// messages are what every example writes.
var messages = []string{`{"text":"hello"}`, `{"text":"world"}`}

func TestMain(m *testing.M) { testserver.Main(m) }

func TestProducers(t *testing.T) {
	t.Parallel()
	url := start(t, "megaphone")
	for name, command := range map[string][]string{
		"curl":   {"sh", "producer.sh"},
		"Go":     {"go", "run", "./go"},
		"rooms":  {"go", "run", "./rooms"},
		"Python": {"python3", "producer.py"},
		"Node":   {"node", "producer.mjs"},
		"PHP":    {"php", "producer.php"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runs(t, url, command, `"sid":"news",.*"body":(.*)}\n`, messages)
		})
	}
}

// TestTopics: their members get the messages, and learn of the end.
func TestTopics(t *testing.T) {
	t.Parallel()
	url := start(t, "megaphone create write read topics publish")
	for name, command := range map[string][]string{
		"curl":   {"sh", "topics/topic.sh"},
		"Go":     {"go", "run", "./topics/go"},
		"Python": {"python3", "topics/topic.py"},
		"Node":   {"node", "topics/topic.mjs"},
		"PHP":    {"php", "topics/topic.php"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runs(t, url, command, `"sid":"(?:log|build-[0-9]+)",.*"body":(.*)}\n`, append(slices.Clone(messages), `null,"end":"done"`))
		})
	}
}

// start starts a server with a site, and returns its URL.
func start(t *testing.T, directive string) (url string) {
	t.Helper()
	s := testserver.New(t)
	url = fmt.Sprintf("http://127.0.0.1:%d", testserver.FreePort(t))
	s.Start("", url+" {\n"+directive+"\n}")
	return url
}

// runs starts an example, which prints a consumer address, and reads there what a pattern finds.
func runs(t *testing.T, url string, command []string, pattern string, want []string) {
	t.Helper()
	for _, tool := range []string{command[0], map[string]string{"sh": "curl"}[command[0]]} {
		if _, err := exec.LookPath(tool); tool != "" && err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "MEGAPHONE_URL="+url)
	cmd.Stderr = os.Stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", command, err)
	}

	response, err := http.Get(url + "/read/" + strings.TrimSpace(string(output)) + "?poll=0")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
		got = append(got, match[1])
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s has %s %s, want %s", output, response.Status, text, want)
	}
}
