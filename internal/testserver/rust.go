package testserver

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// RustClient builds a program with the original broker's published client, and returns its path. The program prints what it reads
// of a stream. Its arguments are the URL of reads without the consumer address, the consumer address, the stream id, and after how
// many messages it ends. The first build takes minutes.
func RustClient(tb testing.TB) string {
	tb.Helper()
	module, err := exec.CommandContext(tb.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/caddy-megaphone/megaphone").Output()
	if err != nil {
		tb.Fatalf("go list -m: %v", err)
	}
	build := exec.CommandContext(tb.Context(), "cargo", "build", "--locked", "--quiet", "--message-format", "json")
	build.Dir = filepath.Join(strings.TrimSpace(string(module)), "integration", "clients", "rust")
	build.Stderr = os.Stderr
	output, err := build.Output()
	if err != nil {
		tb.Fatalf("cargo build: %v", err)
	}
	for line := range strings.Lines(string(output)) {
		var artifact struct{ Executable string }
		if err := json.Unmarshal([]byte(line), &artifact); err == nil && artifact.Executable != "" {
			return artifact.Executable
		}
	}
	tb.Fatalf("cargo did not make a binary:\n%s", output)
	return ""
}
