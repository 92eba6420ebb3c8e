package nodes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/history"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
	"github.com/caddy-megaphone/megaphone/internal/workload"
)

// A strictTransport notes each request that fails in any way.
type strictTransport struct {
	http.RoundTripper

	mu       sync.Mutex
	failures []string
	requests int
}

func (s *strictTransport) note(r *http.Request, format string, args ...any) {
	if r.Context().Err() != nil {
		return // the client broke off
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, r.Method+" "+r.URL.Path+": "+fmt.Sprintf(format, args...))
}

// RoundTrip implements [http.RoundTripper].
func (s *strictTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.requests++
	s.mu.Unlock()
	response, err := s.RoundTripper.RoundTrip(r)
	switch {
	case err != nil:
		s.note(r, "%v", err)
	case response.StatusCode >= 400:
		text, _ := io.ReadAll(response.Body)
		response.Body = io.NopCloser(strings.NewReader(string(text)))
		// An ingest that lasts longer than the server ends early, and says what it has not written: the producer writes that again.
		if r.URL.Path != "/write" || !strings.Contains(string(text), `"written":`) {
			s.note(r, "%s %s", response.Status, text)
		}
	case response.StatusCode != http.StatusSwitchingProtocols:
		response.Body = &strictBody{response.Body, s, r}
	}
	return response, err
}

// A strictBody notes an end that is not clean.
type strictBody struct {
	io.ReadCloser
	transport *strictTransport
	request   *http.Request
}

func (b *strictBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.transport.note(b.request, "the reply ends with %v", err)
	}
	return n, err
}

// newFront starts a Caddy that balances a cluster, and returns its URL.
func newFront(tb testing.TB, c *cluster) string {
	tb.Helper()
	front := testserver.New(tb)
	url := fmt.Sprintf("http://127.0.0.1:%d", testserver.FreePort(tb))
	var upstreams strings.Builder
	for _, n := range c.nodes {
		fmt.Fprintf(&upstreams, " 127.0.0.1:%d", n.port)
	}
	front.Start("", fmt.Sprintf(`%s {
	reverse_proxy%s {
		lb_policy round_robin
		lb_try_duration 5s
		lb_try_interval 50ms
		health_uri /health
		health_interval 100ms
	}
}`, url, upstreams.String()))
	return url
}

// TestRollingRestart restarts one node after the other behind a load balancer that looks at their health. Producers and readers of
// every transport, and clients as they are published, go on: no request fails, and no message is lost.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	// The original's Rust client loses a line that lies across the end of its read buffer of 8 KiB, wherever it comes from. With
	// these limits no more than that is sent at once. For the original's clients any fault is final, so all their reads end
	// while their node still serves, also of a client that is slow to read again.
	c := newCluster(t, newStore(t), 3, "1500ms", "read_duration 500ms\nstream_duration 2s\nbuffer 30\nin_flight 30", "")
	front := newFront(t, c)
	strict := &strictTransport{RoundTripper: workload.NewTransport(t)}
	r := history.NewRecorder()
	rolled := make(chan struct{})
	limit, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	clients := map[string]*testserver.Client{}
	var running sync.WaitGroup
	for name, command := range programs(t, c) {
		channel := c.create(front)
		arguments := command(channel.ConsumerAddress)
		p := testserver.StartClient(t, exec.CommandContext(limit, arguments[0], arguments[1:]...))
		clients[name] = p
		running.Go(func() {
			p.Feed(limit, front+"/write/"+channel.ProducerAddress+"/numbers", numbers, rolled)
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	running.Go(func() {
		err := workload.Run(ctx, r, workload.Options{
			Seed:     workload.Seed(t),
			Base:     func() string { return front },
			HTTP:     &http.Client{Transport: strict},
			Channels: 40,
			Pause:    30 * time.Millisecond,
			Time:     patience,
			Settle:   patience,
		})
		if err != nil {
			t.Error(err)
		}
	})
	for _, p := range clients {
		p.AwaitFirst()
	}
	for _, n := range c.nodes {
		before := r.Accepted()
		for limit := time.Now().Add(patience); r.Accepted() < before+300 && time.Now().Before(limit); {
			time.Sleep(10 * time.Millisecond) // the load balancer has the node back meanwhile
		}
		n.Stop()
		n.start()
	}
	close(rolled)
	stop()
	running.Wait()
	workload.Check(t, r.History(), 900)
	for i, failure := range strict.failures {
		if i == 20 {
			t.Errorf("and %d more", len(strict.failures)-i)
			break
		}
		t.Error(failure)
	}
	t.Logf("%d requests, %d failed", strict.requests, len(strict.failures))
	for name, p := range clients {
		t.Log(name)
		p.WantNumbers(numbers)
	}
}

// programs returns the original's clients: commands that print what they read of a stream of a channel, and end after so many
// messages.
func programs(t *testing.T, c *cluster) map[string]func(consumer string) []string {
	t.Helper()
	all := map[string]func(string) []string{}
	arguments := func(program ...string) func(string) []string {
		return func(consumer string) []string {
			return append(slices.Clone(program), consumer, "numbers", strconv.Itoa(numbers))
		}
	}
	// They lose a line, or fail, if it comes in two pieces. A proxy for HTTP cuts where its buffer of 4 KiB ends, so they need a
	// load balancer for connections.
	var ports []int
	for _, n := range c.nodes {
		ports = append(ports, n.port)
	}
	balancer := testserver.NewBalancer(t, ports...)
	if node, err := exec.LookPath("node"); err == nil {
		all["the JavaScript client"] = arguments(node, "../clients/standin.mjs", balancer)
	} else {
		t.Log("node is not installed, so the original's JavaScript client does not run")
	}
	if os.Getenv("MEGAPHONE_RUST") != "" {
		all["the Rust client"] = arguments(testserver.RustClient(t), balancer+"/read")
	} else {
		t.Log("the original's Rust client runs with MEGAPHONE_RUST=1")
	}
	return all
}

// numbers is how many messages a published client reads.
const numbers = 200
