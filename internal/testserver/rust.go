package testserver

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// RustClient builds a program with the original broker's published client, and returns its path. The program prints what it reads
// of a stream. Its arguments are the URL of reads without the consumer address, the consumer address, the stream id, and after how
// many messages it ends. The first build takes minutes.
func RustClient(tb testing.TB) string {
	tb.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		tb.Fatal("the source of this test is unknown")
	}
	build := exec.CommandContext(tb.Context(), "cargo", "build", "--locked", "--quiet", "--message-format", "json")
	build.Dir = filepath.Join(filepath.Dir(file), "..", "..", "integration", "clients", "rust")
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
