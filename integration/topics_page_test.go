package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestTheCommandsOfTheTopicsPageRun runs all commands of docs/topics.md with its configuration.
func TestTheCommandsOfTheTopicsPageRun(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	page, err := os.ReadFile("../docs/topics.md")
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(t))
	block := func(language string) (text string) {
		for _, found := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
			text += strings.ReplaceAll(found[1], "127.0.0.1:3000", address)
		}
		return text
	}
	s := testserver.New(t)
	options, site, _ := strings.Cut(strings.TrimPrefix(block("caddyfile"), "{\n"), "\n}\n")
	s.Start(options, site)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	output, err := exec.CommandContext(ctx, "bash", "-euc", block("sh")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for pattern, times := range map[string]int{
		`"members":2,"accepted":2,"full":0`: 1,
		`"body":\{"title":"Hello"\}`:        2,
		`"body":"Is anybody here\?"`:        1,
		`"body":"Carol has come."`:          1,
		`"status":"OK"`:                     1,
		`"written":2`:                       1,
		`"body":"Once upon a time"`:         1,
		`"body":null,"end":"done"`:          1,
		`"code"`:                            0,
	} {
		if got := len(regexp.MustCompile(pattern).FindAll(output, -1)); got != times {
			t.Errorf("%s is %d times in the output, want %d", pattern, got, times)
		}
	}
	if t.Failed() {
		t.Logf("%s", output)
	}
}
