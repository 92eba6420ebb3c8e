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
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestOriginalClientsOverRestarts restarts a server with a journal while the original's clients read from it. For them, any
// fault is final. So a load balancer holds connections while there is no server, and restarts are as `systemctl restart` does
// them. All reads end while the server still serves, also of a client that is slow to read again. MEGAPHONE_RESTARTS is how many
// restarts there are.
func TestOriginalClientsOverRestarts(t *testing.T) {
	t.Parallel()
	programs := map[string][]string{"JavaScript": {tool(t, "node"), "standin.mjs"}}
	if os.Getenv("MEGAPHONE_RUST") != "" {
		programs["Rust"] = []string{testserver.RustClient(t)}
	} else {
		t.Log("the original's Rust client runs with MEGAPHONE_RUST=1")
	}
	restarts, err := strconv.Atoi(os.Getenv("MEGAPHONE_RESTARTS"))
	if err != nil {
		restarts = 2
	}
	s := testserver.New(t)
	port := testserver.FreePort(t)
	// The Rust client loses a line that lies across the end of its buffer of 8 KiB. With these limits no more is sent at once.
	settings := fmt.Sprintf("shutdown_delay 1200ms\ngrace_period 3s\nservers {\nlistener_wrappers {\nmegaphone\n}\n}\ndebug\nmegaphone {\nread_duration 200ms\nstream_duration 200ms\nbuffer 30\nin_flight 30\n"+
		"broker disk {\npath %s\n}\n}", filepath.Join(s.Dir, "journal"))
	start := func() {
		s.Start(settings, fmt.Sprintf("http://127.0.0.1:%d {\nmegaphone create write read health\n}", port))
	}
	start()
	balancer := testserver.NewBalancer(t, port)
	ctx, cancel := context.WithTimeout(t.Context(), patience+time.Duration(restarts)*patience/10)
	defer cancel()
	rolled := make(chan struct{})
	var running sync.WaitGroup
	var clients []*testserver.Client
	for name, program := range programs {
		var channel struct{ ProducerAddress, ConsumerAddress string }
		post(t, balancer+"/create", "", http.StatusOK, &channel)
		url := balancer
		if name == "Rust" {
			url += "/read"
		}
		client := testserver.StartClient(t, exec.CommandContext(ctx, program[0], append(program[1:], url, channel.ConsumerAddress, "numbers", strconv.Itoa(messages))...))
		clients = append(clients, client)
		running.Go(func() {
			client.Feed(ctx, balancer+"/write/"+channel.ProducerAddress+"/numbers", messages, rolled)
			client.WantNumbers(messages)
		})
	}
	for _, client := range clients {
		client.AwaitFirst()
	}
	for range restarts {
		time.Sleep(300 * time.Millisecond) // clients and producers are busy
		s.Stop()
		start()
	}
	close(rolled)
	running.Wait()
	if ends := strings.Count(s.Log(), "read ended"); ends < restarts {
		t.Errorf("only %d reads have ended, so the test shows nothing", ends)
	}
}
