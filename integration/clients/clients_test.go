// Package clients tests the built binary with clients in other languages: those of the original broker, which must work
// unchanged, and this project's own.
package clients

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

const (
	messages = 300
	// options makes reads so short that some begin and end while the test writes messages.
	options = "debug\nmegaphone {\nread_duration 700ms\nstream_duration 1500ms\n}"
	// patience is how long one client may take. It allows for a busy machine.
	patience = 2 * time.Minute
)

// TestOriginalJavaScriptClient runs a stand-in for the original's client, because no registry has that client.
func TestOriginalJavaScriptClient(t *testing.T) {
	t.Parallel()
	node := tool(t, "node")
	readsAcrossBoundariesAndAReload(t, func(ctx context.Context, url, consumer, stream string, count int) *exec.Cmd {
		return exec.CommandContext(ctx, node, "standin.mjs", url, consumer, stream, strconv.Itoa(count))
	})
}

// TestOriginalRustClient runs the original's published client, unmodified. The client takes minutes to compile, so the
// test runs only if MEGAPHONE_RUST is set.
func TestOriginalRustClient(t *testing.T) {
	tool(t, "cargo")
	if os.Getenv("MEGAPHONE_RUST") == "" {
		t.Skip("run it with: MEGAPHONE_RUST=1 go test -run Rust ./integration/clients")
	}
	binary := testserver.RustClient(t)
	readsAcrossBoundariesAndAReload(t, func(ctx context.Context, url, consumer, stream string, count int) *exec.Cmd {
		return exec.CommandContext(ctx, binary, url+"/read", consumer, stream, strconv.Itoa(count))
	})
}

// readsAcrossBoundariesAndAReload writes numbers while a client reads them. Meanwhile the client's reads end several
// times, and the configuration is reloaded. The client must print all numbers, each once and in order.
func readsAcrossBoundariesAndAReload(t *testing.T, command func(ctx context.Context, url, consumer, stream string, count int) *exec.Cmd) {
	t.Helper()
	s, url := start(t)
	var channel struct{ ProducerAddress, ConsumerAddress string }
	post(t, url+"/create", "", http.StatusOK, &channel)

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := testserver.StartClient(t, command(ctx, url, channel.ConsumerAddress, "numbers", messages))
	for n := range messages {
		post(t, url+"/write/"+channel.ProducerAddress+"/numbers", strconv.Itoa(n), http.StatusCreated, nil)
		if n == messages/2 {
			reload(t, s, url)
		}
		time.Sleep(10 * time.Millisecond)
	}
	client.WantNumbers(messages)
	if ends := strings.Count(s.Log(), "read ended"); ends < 3 {
		t.Errorf("only %d reads have ended, so the test shows nothing", ends)
	}
}

// TestOwnJavaScriptClient breaks the client's connections all the time and reloads the configuration.
func TestOwnJavaScriptClient(t *testing.T) {
	t.Parallel()
	ownJavaScriptClient(t, tool(t, "node"))
}

// TestOwnJavaScriptClientInDeno does the same in Deno, the other runtime that the client supports.
func TestOwnJavaScriptClientInDeno(t *testing.T) {
	ownJavaScriptClient(t, tool(t, "deno"), "run", "--quiet", "--no-config", "--allow-net")
}

// TestOwnJavaScriptClientTopics uses topics, from the producer to the page.
func TestOwnJavaScriptClientTopics(t *testing.T) {
	t.Parallel()
	node := tool(t, "node")
	url := fmt.Sprintf("http://127.0.0.1:%d", testserver.FreePort(t))
	testserver.New(t).Start(options, url+" {\nmegaphone create write read exists manage topics publish\n}")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if output, err := exec.CommandContext(ctx, node, "topics.mjs", url).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

func ownJavaScriptClient(t *testing.T, runtime string, args ...string) {
	t.Helper()
	for _, transports := range []string{"websocket", "sse", "ndjson", "poll", "websocket,sse,ndjson,poll"} {
		t.Run(transports, func(t *testing.T) {
			t.Parallel()
			s, url := start(t)
			link := newLink(t, url)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			args := append(slices.Clone(args), "ours.mjs", url, link.url, transports, strconv.Itoa(messages))
			client := testserver.StartClient(t, exec.CommandContext(ctx, runtime, args...))
			// While the client runs, the test cuts the link often, and sometimes reloads the configuration.
			for cuts := 1; !client.Ended(); cuts++ {
				time.Sleep(130 * time.Millisecond)
				link.cut()
				if cuts%4 == 0 {
					reload(t, s, url)
				}
			}
			if exit := new(exec.ExitError); errors.As(client.Err(), &exit) && exit.ExitCode() == 77 {
				t.Skip("this Node has no WebSocket: run npm ci in client/js to install one")
			}
			client.WantNumbers(messages)
			if n := link.broken(); n < 5 {
				t.Errorf("the test cut only %d connections, so it shows nothing", n)
			}
		})
	}
}

// tool returns the path of a program. If the program is not installed, it skips the test. It also skips the test in
// short mode.
func tool(t *testing.T, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("takes many seconds")
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

func start(t *testing.T) (s *testserver.Server, url string) {
	t.Helper()
	s = testserver.New(t)
	url = fmt.Sprintf("http://127.0.0.1:%d", testserver.FreePort(t))
	s.Start(options, site(url, "one"))
	return s, url
}

// site returns the configuration of a site. A different mark makes it a different configuration.
func site(url, mark string) string {
	return fmt.Sprintf("%s {\nheader Mark %s\nmegaphone\n}", url, mark)
}

func reload(t *testing.T, s *testserver.Server, url string) {
	t.Helper()
	if err := s.Reload(options, site(url, strconv.FormatInt(time.Now().UnixNano(), 10))); err != nil {
		t.Fatal(err)
	}
}

func post(t *testing.T, url, body string, status int, reply any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != status {
		t.Fatalf("%s: %s", url, response.Status)
	}
	if reply != nil {
		if err := json.NewDecoder(response.Body).Decode(reply); err != nil {
			t.Fatal(err)
		}
	}
}
