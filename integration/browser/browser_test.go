//go:build browser && unix

// Package browser tests with a real browser that reads through a failing network:
//
//	go test -v -tags browser ./integration/browser
//
// It needs Chromium. Without it, the tests say that they are skipped.
package browser

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

//go:embed page.html
var html []byte

const (
	messages = 1000
	// pace is the time between two messages of a channel. All messages together take some twelve seconds.
	pace = 12 * time.Millisecond
	// ahead is the most messages that a producer may be ahead of a page. If a page does not acknowledge, the server
	// only guarantees the messages in the in-flight window, the last 100. Earlier messages may be lost between the
	// kernel's buffer and the script.
	ahead = 90
	// rounds is how many faults the test causes, one every second or so.
	rounds = 10
	// limit is how long the whole test may take on a slow machine. It usually takes some 25 seconds.
	limit = 90 * time.Second
)

// options makes streams also end by themselves a few times during the test.
const options = "megaphone {\n stream_duration 3s\n read_duration 2s\n heartbeat 500ms\n}\n"

func TestPagesGetEveryMessageOnceOverFaults(t *testing.T) {
	chromium := findChromium(t)
	for name, protocols := range map[string]string{"HTTP/1.1": "h1", "HTTP/2": "h1 h2"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testFaults(t, chromium, protocols)
		})
	}
}

func testFaults(t *testing.T, chromium, protocols string) {
	browser := startBrowser(t, chromium, "--ignore-certificate-errors")
	server := testserver.New(t)
	if err := os.WriteFile(filepath.Join(server.Dir, "page.html"), html, 0o600); err != nil {
		t.Fatal(err)
	}
	port := testserver.FreePort(t)
	settings := fmt.Sprintf("%sservers {\n protocols %s\n}", options, protocols)
	sites := fmt.Sprintf(`
https://127.0.0.1:%d {
	bind 127.0.0.1
	megaphone read
	root %s
	file_server
}
http:// {
	bind unix/%s
	megaphone create write
}`, port, server.Dir, server.Socket("backend"))
	server.Start(settings, sites)
	awaitCertificate(t, server, "127.0.0.1", port)
	backend := backend{t, testserver.UnixClient(t, server.Socket("backend"))}
	network := newNetwork(t, fmt.Sprintf("127.0.0.1:%d", port))

	ends := time.Now().Add(limit)
	var readers []*reader
	for _, transport := range []string{"sse", "websocket", "ndjson"} {
		channel := backend.create()
		readers = append(readers, &reader{
			page:      browser.open(fmt.Sprintf("https://%s/page.html?transport=%s&channel=%s", network.address(), transport, channel.ConsumerAddress)),
			transport: transport,
			producer:  channel.ProducerAddress,
			ends:      ends,
		})
	}

	var doing sync.WaitGroup
	doing.Go(func() { trouble(t, server, settings, sites, network, readers) })
	for _, r := range readers {
		doing.Go(func() { r.produce(t, backend) })
	}
	doing.Wait()
	for _, r := range readers {
		r.check(t)
	}
	if network.broken() < 20 {
		t.Errorf("the network broke only %d connections", network.broken())
	}
}

// trouble breaks connections, reloads the configuration, and takes pages offline and online again.
func trouble(t *testing.T, server *testserver.Server, settings, sites string, network *network, readers []*reader) {
	for round := range rounds {
		time.Sleep(500*time.Millisecond + rand.N(time.Second))
		switch round % 4 {
		case 0, 2:
			network.breakAll()
		case 1:
			// The heartbeat changes each time, so that the configuration is a new one.
			changed := strings.Replace(settings, "heartbeat 500ms", fmt.Sprintf("heartbeat %dms", 500+round), 1)
			if err := server.Reload(changed, sites); err != nil {
				t.Error(err)
			}
		case 3:
			for _, offline := range []bool{true, false} {
				for _, r := range readers {
					var online bool
					err := r.page.setOffline(offline)
					if err == nil {
						err = r.page.evaluate("navigator.onLine", &online)
					}
					if err != nil || online == offline {
						t.Errorf("%s: online is %v after setting offline to %v: %v", r.transport, online, offline, err)
					}
				}
				// The browser's offline mode does not affect WebSockets, so the network goes down too.
				network.setDown(offline)
				if offline {
					time.Sleep(time.Second)
				}
			}
		}
	}
}

// A reader is a page that reads a channel.
type reader struct {
	page      *page
	transport string
	producer  string
	ends      time.Time // the deadline for all messages
}

// seen says what a page has seen.
type seen struct {
	Count, Repeats, Connections int
	Failed                      string
}

func (r *reader) seen(t *testing.T) (s seen, ok bool) {
	err := r.page.evaluate("({count: seen.bodies.length, repeats: seen.repeats, connections: seen.connections, failed: seen.failed})", &s)
	if err != nil || s.Failed != "" {
		t.Errorf("%s: %v %s", r.transport, err, s.Failed)
		return s, false
	}
	return s, true
}

// await waits until the page has seen this many messages. It reports whether the page has.
func (r *reader) await(t *testing.T, count int) bool {
	for ; ; time.Sleep(20 * time.Millisecond) {
		s, ok := r.seen(t)
		if !ok || s.Count >= count {
			return ok
		}
		if time.Now().After(r.ends) {
			t.Errorf("%s: waited in vain for message %d: %+v", r.transport, count, s)
			return false
		}
	}
}

// produce writes the messages, the numbers from 0, and waits until the page has seen them.
func (r *reader) produce(t *testing.T, backend backend) {
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for i := range messages {
		<-ticker.C
		if i%10 == 0 && !r.await(t, i-ahead) || !backend.write(r.producer, i) {
			return
		}
	}
	r.await(t, messages)
}

// check checks that the page has seen every message once and in order, and has used several connections.
func (r *reader) check(t *testing.T) {
	var bodies []int
	if err := r.page.evaluate("seen.bodies", &bodies); err != nil {
		t.Errorf("%s: %v", r.transport, err)
		return
	}
	for i := range messages {
		if i >= len(bodies) || bodies[i] != i {
			t.Errorf("%s: message %d is not in its place: %v", r.transport, i, bodies[max(0, i-5):min(len(bodies), i+5)])
			break
		}
	}
	if len(bodies) > messages {
		t.Errorf("%s: %d messages", r.transport, len(bodies))
	}
	s, _ := r.seen(t)
	if s.Connections < 3 {
		t.Errorf("%s: only %d connections", r.transport, s.Connections)
	}
	t.Logf("%s: %d messages over %d connections, %d repeats dropped", r.transport, s.Count, s.Connections, s.Repeats)
}

// A backend creates channels and writes messages.
type backend struct {
	t      *testing.T
	client *http.Client
}

// A channel has the addresses of a channel.
type channel struct{ ProducerAddress, ConsumerAddress string }

func (b backend) create() (c channel) {
	b.t.Helper()
	response, err := b.client.Post("http://localhost/create", "", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&c); err != nil {
		b.t.Fatal(err)
	}
	return c
}

// write writes a message. It reports whether the server has accepted it. A request may get no answer if it arrives
// during a reload. Then write repeats it with the same key, so that it takes effect once.
func (b backend) write(producer string, body int) bool {
	for attempt := 0; ; attempt++ {
		r, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, "http://localhost/write/"+producer+"/numbers", strings.NewReader(fmt.Sprint(body)))
		if err != nil {
			b.t.Error(err)
			return false
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Idempotency-Key", fmt.Sprintf("%s-%d", producer, body))
		response, err := b.client.Do(r)
		if err != nil && attempt < 10 {
			continue
		}
		if err != nil {
			b.t.Error(err)
			return false
		}
		response.Body.Close()
		if response.StatusCode != http.StatusCreated {
			b.t.Errorf("write %d: %s", body, response.Status)
		}
		return response.StatusCode == http.StatusCreated
	}
}
