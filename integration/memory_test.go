//go:build linux

package integration

import (
	"bytes"
	"encoding/json"
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

// memoryOf reads how much memory a process has, and had at most, in bytes.
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

// TestMaxMemoryBoundsTheProcess: producers that try to put much more into the server than max_memory allows do not
// get it far beyond the limit, whatever the size of their messages.
func TestMaxMemoryBoundsTheProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	const (
		limit = 128 << 20
		base  = 96 << 20 // Caddy without messages, and the requests of the producers
	)
	for name, size := range map[string]int{"small messages": 100, "medium messages": 4_000, "large messages": 500_000} {
		t.Run(name, func(t *testing.T) {
			s := testserver.New(t)
			s.Start("megaphone {\nmax_memory 128MiB\nbuffer 1000000\nhold 100ms\nmax_message_size 600KB\n}",
				"http:// {\nbind unix/"+s.Socket("site")+"\nmegaphone\n}")
			client := testserver.UnixClient(t, s.Socket("site"))
			post := func(path, contentType string, body []byte) string {
				response, err := client.Post("http://localhost"+path, contentType, bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return ""
				}
				defer response.Body.Close()
				var text bytes.Buffer
				_, _ = text.ReadFrom(response.Body)
				if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusCreated && response.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("%s: %s", response.Status, text.String())
				}
				return text.String()
			}
			var lines []byte
			body := strings.Repeat("x", size)
			var producers []string
			for range 20 {
				var c struct{ ProducerAddress string }
				if err := json.Unmarshal([]byte(post("/create", "", nil)), &c); err != nil {
					t.Fatal(err)
				}
				producers = append(producers, c.ProducerAddress)
			}
			for i := range max(1, 1_000_000/size) {
				lines = fmt.Appendf(lines, `{"channel":%q,"streamId":"s","body":%q}`+"\n", producers[i%len(producers)], body)
			}
			// Eight producers send twice what fits, and more.
			var sent atomic.Int64
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for sent.Add(int64(len(lines))) < 2*limit {
						post("/write", "application/x-ndjson", lines)
					}
				})
			}
			all.Wait()
			_, peak := memoryOf(t, s.Pid())
			t.Logf("peak %d MiB of %d MiB", peak>>20, limit>>20)
			if peak > limit*13/10+base {
				t.Errorf("the process has had %d MiB, with a limit of %d MiB", peak>>20, limit>>20)
			}
		})
	}
}
