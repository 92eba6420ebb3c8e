package testserver

import (
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// Binary builds this module's command caddy, once for all tests of the process, and returns its path. If the
// environment variable MEGAPHONE_CADDY is set, it names the binary instead.
func Binary(tb testing.TB) string {
	tb.Helper()
	path, err := binary()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

var binary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("MEGAPHONE_CADDY"); path != "" {
		return filepath.Abs(path)
	}
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(file), "..", "..")
	// Each checkout has its own folder, so the linker has nothing to do when nothing has changed.
	place := fnv.New64a()
	_, _ = place.Write([]byte(root)) // never fails
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("megaphone-test-%x", place.Sum64()))
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(dir, "lock")) // tests of several packages run at the same time
	if err != nil {
		return "", err
	}
	defer unlock()
	path := filepath.Join(dir, "caddy")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "./cmd/caddy")
	cmd.Dir = root
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/caddy: %w\n%s", err, output)
	}
	return path, nil
})
