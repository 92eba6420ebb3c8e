package clients

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestSSELibraries runs libraries for server-sent events as they are published. While they read, there are pauses with
// heartbeats between messages, and streams end.
func TestSSELibraries(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	url := fmt.Sprintf("http://127.0.0.1:%d", testserver.FreePort(t))
	s.Start("debug\nmegaphone {\nheartbeat 20ms\nstream_duration 700ms\n}", site(url, "one"))
	for _, library := range []string{"eventsource", "event-source-polyfill", "eventsource-client", "fetch-event-source", "sseclient", "sseclient-py"} {
		for _, named := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s named=%t", library, named), func(t *testing.T) {
				t.Parallel()
				readWithLibrary(t, s, url, library, named)
			})
		}
	}
}

// readWithLibrary writes messages while a library reads them. With named, the events have the stream's id as their name.
func readWithLibrary(t *testing.T, s *testserver.Server, url, library string, named bool) {
	t.Helper()
	runtime, program, installed := "node", "read.mjs", "node_modules"
	if strings.HasPrefix(library, "sseclient") {
		runtime, program, installed = "python3", "read.py", filepath.Join("site-packages", library)
	}
	path := tool(t, runtime)
	if _, err := os.Stat(filepath.Join("sse", installed)); err != nil {
		if os.Getenv("MEGAPHONE_LIBRARIES") != "" {
			t.Fatal(err)
		}
		t.Skip("the library is not installed: run integration/clients/sse/install")
	}
	var channel struct{ ProducerAddress, ConsumerAddress string }
	post(t, url+"/create", "", http.StatusOK, &channel)
	read, name := url+"/read/"+channel.ConsumerAddress, "message"
	if named {
		read, name = read+"?event=sid", "numbers"
	}
	const count = 10
	ctx, cancel := context.WithTimeout(t.Context(), patience/4)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, program, library, read, name, strconv.Itoa(count))
	cmd.Dir = "sse"
	client := testserver.StartClient(t, cmd)
	end := fmt.Sprintf(`"msg":"read ended","address":%q,"transport":"sse","reason":"complete"`, broker.RedactAddress(channel.ConsumerAddress))
	for n := range count {
		if n == count/2 {
			s.Await("a stream has ended", func() bool { return client.Ended() || strings.Contains(s.Log(), end) })
		}
		if client.Ended() {
			break // it has failed
		}
		post(t, url+"/write/"+channel.ProducerAddress+"/numbers", strconv.Itoa(n), http.StatusCreated, nil)
		time.Sleep(50 * time.Millisecond) // there are heartbeats in between
	}
	client.WantNumbers(count)
}
