package command

import (
	"bytes"
	flags "flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

var update = flags.Bool("update", false, "write the current texts into the golden files")

// TestHelp compares what --help prints, for each command, with testdata/help.
func TestHelp(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/data") // is in the default of --path
	registered := megaphoneCommand()
	cmd := &cobra.Command{Use: registered.Name + " " + registered.Usage, Short: registered.Short, Long: registered.Long}
	registered.CobraFunc(cmd)
	root := &cobra.Command{Use: "caddy"}
	root.AddCommand(cmd)
	golden := map[string]bool{}
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		path := filepath.Join("testdata", "help", strings.ReplaceAll(strings.TrimPrefix(c.CommandPath(), "caddy "), " ", "_")+".txt")
		golden[path] = true
		var out bytes.Buffer
		c.SetOut(&out)
		if err := c.Help(); err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
				err = os.WriteFile(path, out.Bytes(), 0o600)
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		if want, err := os.ReadFile(path); err != nil || out.String() != string(want) {
			t.Errorf("%s: the help differs from %s (error %v); go test ./internal/command -run TestHelp -update writes it. It is\n%s", c.CommandPath(), path, err, &out)
		}
		for line := range strings.Lines(c.Long) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
				t.Errorf("%s: a line of the help has %d characters: %s", c.CommandPath(), n, line)
			}
		}
		for _, sub := range c.Commands() {
			check(sub)
		}
	}
	check(cmd)
	files, _ := filepath.Glob("testdata/help/*")
	for _, file := range files {
		if !golden[file] {
			t.Errorf("%s belongs to no command", file)
		}
	}
}
