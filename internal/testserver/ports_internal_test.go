package testserver

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestPortsOfProcesses: while this process lives, another one gets none of the ports that this one may return.
func TestPortsOfProcesses(t *testing.T) {
	if os.Getenv("MEGAPHONE_TEST_PORTS") != "" {
		for range 3 * blockSize {
			os.Stdout.WriteString("port " + fmt.Sprint(FreePort(t)) + "\n")
		}
		return
	}
	own := map[string]bool{}
	for range 2*blockSize + 1 {
		port := fmt.Sprint(FreePort(t))
		if own[port] {
			t.Errorf("port %s is returned twice", port)
		}
		own[port] = true
	}
	other := exec.Command(os.Args[0], "-test.run", "^TestPortsOfProcesses$")
	other.Env = append(os.Environ(), "MEGAPHONE_TEST_PORTS=1")
	out, err := other.Output()
	if err != nil {
		t.Fatal(err)
	}
	got := slices.Collect(strings.Lines(string(out)))
	n := 0
	for _, line := range got {
		if port, ok := strings.CutPrefix(strings.TrimSpace(line), "port "); ok {
			n++
			if own[port] {
				t.Errorf("another process gets port %s too", port)
			}
		}
	}
	if n != 3*blockSize {
		t.Errorf("another process gets %d ports", n)
	}
}
