//go:build linux

package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// memoryOf returns how much memory a process has now and how much it has had at most, in bytes.
func memoryOf(t *testing.T, pid int) (now, peak int64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	value := func(name string) int64 {
		found := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(status)
		kb, err := strconv.ParseInt(string(found[1]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return kb << 10
	}
	return value("VmRSS"), value("VmHWM")
}

// TestMaxMemoryBoundsTheProcess has producers that write much more than max_memory allows. The process stays near the
// limit, whatever the size of the messages.
func TestMaxMemoryBoundsTheProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a long time")
	}
	t.Parallel()
	const (
		limit = 128 << 20
		base  = 128 << 20 // Caddy without messages, and the requests of the producers
	)
	for name, size := range map[string]int{"small messages": 100, "medium messages": 4_000, "large messages": 500_000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t)
			c := startSite(t, s, "megaphone {\nmax_memory 128MiB\nbuffer 1000000\nhold 100ms\nmax_message_size 600KB\n}", "megaphone")
			ingest := func(lines []byte) {
				response, err := c.http.Post(c.base+"/write", "application/x-ndjson", bytes.NewReader(lines))
				if err != nil {
					t.Error(err)
					return
				}
				defer response.Body.Close()
				var text bytes.Buffer
				_, _ = text.ReadFrom(response.Body)
				if response.StatusCode != http.StatusCreated && response.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("%s: %s", response.Status, text.String())
				}
			}
			var lines []byte
			body := strings.Repeat("x", size)
			var producers []string
			for range 20 {
				producers = append(producers, c.create().ProducerAddress)
			}
			for i := range max(1, 1_000_000/size) {
				lines = fmt.Appendf(lines, `{"channel":%q,"streamId":"s","body":%q}`+"\n", producers[i%len(producers)], body)
			}
			// Eight producers together send at least twice what fits.
			var sent atomic.Int64
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for sent.Add(int64(len(lines))) < 2*limit {
						ingest(lines)
					}
				})
			}
			all.Wait()
			_, peak := memoryOf(t, s.Pid())
			t.Logf("peak %d MiB of %d MiB", peak>>20, limit>>20)
			if peak > limit*13/10+base {
				t.Errorf("the process had up to %d MiB, with a limit of %d MiB", peak>>20, limit>>20)
			}
		})
	}
}
