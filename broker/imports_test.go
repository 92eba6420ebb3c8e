package broker_test

import (
	"os/exec"
	"strings"
	"testing"
)

// The contract, the Brokers and the contract's tests can be imported without a web server.
func TestNoWebServerIsImported(t *testing.T) {
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", ".", "./memory", "./disk", "./redis", "./brokertest")
	deps, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.Lines(string(deps)) {
		path = strings.TrimSpace(path)
		for _, root := range []string{"net/http", "github.com/caddyserver", "github.com/prometheus"} {
			if path == root || strings.HasPrefix(path, root+"/") {
				t.Errorf("%s is imported", path)
			}
		}
	}
	if !strings.Contains(string(deps), "/broker/memory\n") {
		t.Errorf("go list found %q", deps)
	}
}
