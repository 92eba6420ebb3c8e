package command

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAMistakenPathIsNoJournal: it is not an empty one either, and nothing is made there.
func TestAMistakenPathIsNoJournal(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"check", "repair"} {
		for _, path := range []string{filepath.Join(t.TempDir(), "none"), file} {
			var out strings.Builder
			cmd := journalCommand()
			cmd.SetArgs([]string{action, "--path", path})
			cmd.SetOut(&out)
			cmd.SetErr(io.Discard)
			if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "there is no journal: ") || strings.Contains(out.String(), "channels  ") {
				t.Errorf("%s of %s: %v, and prints %q", action, path, err, out.String())
			}
			if _, err := os.Stat(path); path != file && err == nil {
				t.Errorf("%s has made %s", action, path)
			}
		}
	}
}
