package integration

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
	"github.com/caddy-megaphone/megaphone/internal/workload"
)

// hostileRequests returns how many malformed requests the server gets at least.
func hostileRequests() int {
	if testing.Short() {
		return 1_000
	}
	return workload.Rounds(2_500, 10_000)
}

// TestMalformedRequestsHarmNobody attacks a server with malformed requests while normal clients use it. All their
// messages are accepted and arrive. After that, the server has released what it used for the attack, and its log has no
// faults.
func TestMalformedRequestsHarmNobody(t *testing.T) {
	t.Parallel()
	h := startHostile(t)
	before := h.usage()
	var reading, writing sync.WaitGroup
	stop := make(chan struct{})
	clients := make([]*drainClient, 8)
	for i := range clients {
		c := &drainClient{channel: h.create(), received: map[string]struct{}{}}
		clients[i] = c
		reading.Go(func() { c.consume(t.Context(), h.commandServer, []string{"ndjson", "sse", "poll", "cursor"}[i%4]) })
		writing.Go(func() { h.normal(c, stop) })
	}
	h.attackWith(48, 20*int64(len(clients)))
	close(stop)
	writing.Wait()
	h.run(0, "", "delete", h.victim.ConsumerAddress) // nobody reads its messages, and the drain would wait until they expire
	h.run(0, "", "drain", "--over", "0s", "--wait", "--timeout", "60s")
	h.run(0, "", "drain", "--undo")
	reading.Wait()
	for _, c := range clients {
		if len(c.accepted) < 10 || len(c.accepted) != len(c.received) {
			t.Errorf("a channel accepted %d messages, and its consumer got %d", len(c.accepted), len(c.received))
		}
	}
	t.Logf("the replies by status: %v", h.counts())

	http.DefaultClient.CloseIdleConnections()
	var after usage
	h.Await("the server has released everything", func() bool {
		after = h.usage()
		return after.goroutines <= before.goroutines+5 && after.heap <= before.heap+16<<20
	})
	t.Logf("goroutines %d and %d after, heap %d KiB and %d KiB after", before.goroutines, after.goroutines, before.heap>>10, after.heap>>10)
	if log := h.Log(); strings.Contains(log, "panic") || strings.Contains(log, "request failed") {
		t.Error("the log has faults")
	}
}

// startHostile starts a server with and without TLS, and creates a channel to attack.
func startHostile(t *testing.T) *hostile {
	t.Helper()
	s := &commandServer{testserver.New(t), t, ""}
	port, tlsPort := testserver.FreePort(t), testserver.FreePort(t)
	s.url = fmt.Sprintf("http://127.0.0.1:%d", port)
	const directive = "megaphone create write read exists manage health"
	// The site without TLS serves any host, because most of the requests have a wrong host.
	secure := fmt.Sprintf("https://localhost:%d {\nbind 127.0.0.1\n%s\n}", tlsPort, directive)
	s.Start("megaphone {\nhold 1s\nmax_message_size 100KB\n}", tcpSite(port, directive)+secure)
	awaitCertificate(t, s.Server, "localhost", tlsPort)
	return &hostile{
		commandServer: s,
		plain:         fmt.Sprintf("127.0.0.1:%d", port),
		secure:        fmt.Sprintf("localhost:%d", tlsPort),
		tls:           &tls.Config{RootCAs: s.Roots(), NextProtos: []string{"h2"}, CurvePreferences: []tls.CurveID{tls.X25519}},
		victim:        s.create(),
		admin:         s.Admin(),
		statuses:      map[int]int{},
	}
}

// attackWith runs this many attackers at once. They send hostileRequests requests. They go on until the normal clients
// have also written this many more messages, so that the test sees how the attack affects those.
func (h *hostile) attackWith(attackers int, messages int64) {
	var left atomic.Int64
	left.Store(int64(hostileRequests()))
	enough := h.written.Load() + messages
	var attack sync.WaitGroup
	for range attackers {
		attack.Go(func() {
			for (left.Add(-1) >= 0 || h.written.Load() < enough) && !h.Failed() {
				h.attacks()[rand.N(len(h.attacks()))]()
			}
		})
	}
	attack.Wait()
}

// normal writes messages until stop is closed. The server must accept each of them within 10 seconds.
func (h *hostile) normal(c *drainClient, stop <-chan struct{}) {
	header := http.Header{"Content-Type": {"application/json"}}
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
		start := time.Now()
		reply := h.request(h.Context(), http.MethodPost, "/write/"+c.ProducerAddress+"/s", header, strconv.Itoa(n))
		if reply == nil {
			return
		}
		_, _ = io.Copy(io.Discard, reply.Body)
		_ = reply.Body.Close()
		if took := time.Since(start); reply.StatusCode != http.StatusCreated || took > 10*time.Second {
			h.Errorf("a normal write: %s after %v", reply.Status, took)
			return
		}
		c.accepted = append(c.accepted, strconv.Itoa(n))
		h.written.Add(1)
	}
}

// A usage says what a server uses.
type usage struct {
	goroutines int
	heap       int64 // bytes in use after a garbage collection
}

var goroutineTotal = regexp.MustCompile(`goroutine profile: total (\d+)`)

func (h *hostile) usage() (u usage) {
	h.Helper()
	fetch(h.T, h.admin, "http://localhost/debug/pprof/heap?gc=1")
	var vars struct{ Memstats runtime.MemStats }
	if err := json.Unmarshal(fetch(h.T, h.admin, "http://localhost/debug/vars"), &vars); err != nil {
		h.Fatal(err)
	}
	u.heap = int64(vars.Memstats.HeapAlloc)
	total := goroutineTotal.FindSubmatch(fetch(h.T, h.admin, "http://localhost/debug/pprof/goroutine?debug=1"))
	if total == nil {
		h.Fatal("the goroutine profile has no total")
	}
	u.goroutines, _ = strconv.Atoi(string(total[1]))
	return u
}
