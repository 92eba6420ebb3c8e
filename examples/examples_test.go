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

func TestProducers(t *testing.T) {
	s := testserver.New(t)
	url := fmt.Sprintf("http://127.0.0.1:%d", testserver.FreePort(t))
	s.Start("", url+" {\nmegaphone\n}")
	for name, command := range map[string][]string{
		"curl":   {"sh", "producer.sh"},
		"Go":     {"go", "run", "./go"},
		"rooms":  {"go", "run", "./rooms"},
		"Python": {"python3", "producer.py"},
		"Node":   {"node", "producer.mjs"},
		"PHP":    {"php", "producer.php"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, tool := range []string{command[0], map[string]string{"curl": "curl"}[name]} {
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
			for _, match := range regexp.MustCompile(`"sid":"news",.*"body":(.*)}\n`).FindAllStringSubmatch(string(text), -1) {
				got = append(got, match[1])
			}
			if want := []string{`{"text":"hello"}`, `{"text":"world"}`}; !slices.Equal(got, want) {
				t.Errorf("%s has %s %s, want %s", output, response.Status, text, want)
			}
		})
	}
}
