// Package nodes tests several servers, the nodes, that share channels in a Redis: the built binary and a real redis-server, over
// HTTP, while nodes, Redis and the network between them fail.
package nodes

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
	"github.com/caddy-megaphone/megaphone/internal/workload"
)

// patience is how long a thing may take on a machine that is busy with other work.
const patience = time.Minute

func needsRedis(tb testing.TB) {
	tb.Helper()
	if os.Getenv("MEGAPHONE_REDIS") == "" {
		tb.Skip("needs redis-server 7 and takes a minute: MEGAPHONE_REDIS=1 go test ./integration/nodes")
	}
	if _, err := exec.LookPath("redis-server"); err != nil {
		tb.Skip("redis-server is not installed: apt-get install redis-server")
	}
}

// A store is a redis-server that a test has started.
type store struct {
	testing.TB

	socket  string
	process *exec.Cmd
	// If it is one of a Redis Cluster, all has the servers, and address is this one's.
	all     []*store
	address string
}

// newStore starts a redis-server. settings are its arguments, such as "--appendonly", "yes".
func newStore(tb testing.TB, settings ...string) *store {
	tb.Helper()
	needsRedis(tb)
	dir, err := os.MkdirTemp("", "mp") //nolint:usetesting // its path is too long for a Unix socket
	if err != nil {
		tb.Fatal(err)
	}
	s := &store{TB: tb, socket: filepath.Join(dir, rand.Text()[:8]+".sock")}
	arguments := []string{"--port", "0", "--unixsocket", s.socket, "--save", "", "--dir", dir, "--repl-diskless-sync-delay", "0"}
	s.process = exec.Command("redis-server", append(arguments, settings...)...)
	if err := s.process.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		s.kill()
		_ = os.RemoveAll(dir)
	})
	for limit := time.Now().Add(patience); s.try("PING") != "PONG"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			tb.Fatal("redis-server does not start")
		}
	}
	return s
}

func (s *store) kill() {
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
}

func (s *store) signal(signal syscall.Signal) {
	s.Helper()
	if err := s.process.Process.Signal(signal); err != nil {
		s.Error(err)
	}
}

// try runs a command, and returns what redis-cli shows.
func (s *store) try(command ...string) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "redis-cli", append([]string{"-s", s.socket}, command...)...).CombinedOutput()
	return strings.TrimSpace(string(out))
}

// A cluster is nodes that share a Redis.
type cluster struct {
	testing.TB

	store         *store
	nodes         []*node
	http          *http.Client
	announcements workload.Announcements
}

// A node is one server of a cluster.
type node struct {
	*testserver.Server

	link     *relay // to Redis; nil if that is a Redis Cluster, whose clients connect to the servers themselves
	port     int
	settings func(revision int) string // global options
	revision int
}

// newCluster starts nodes, each with a relay to Redis. delay is their shutdown_delay. settings go into the block of
// the option megaphone, and redis into that of its setting broker.
func newCluster(tb testing.TB, s *store, count int, delay, settings, redis string) *cluster {
	tb.Helper()
	c := &cluster{TB: tb, store: s}
	c.http = &http.Client{Transport: workload.NewTransport(tb)}
	hook := httptest.NewServer(&c.announcements)
	tb.Cleanup(hook.Close)
	for range count {
		n := &node{Server: testserver.New(tb), port: testserver.FreePort(tb)}
		address := s.address
		if s.all == nil {
			n.link = newRelay(tb, s.socket)
			address = n.link.address
		}
		n.settings = func(revision int) string {
			return fmt.Sprintf(`shutdown_delay %s
grace_period 3s
servers {
	listener_wrappers {
		megaphone
	}
}
megaphone {
	%s
	max_channels %d
	webhook channel_deleted %s
	broker redis %s {
		%s
	}
}`, delay, settings, 10_000+revision, hook.URL, address, redis)
		}
		c.nodes = append(c.nodes, n)
		n.start()
	}
	return c
}

// A channel is what create answers with.
type channel struct{ ProducerAddress, ConsumerAddress string }

// create creates a channel at a node or a load balancer.
func (c *cluster) create(url string) (created channel) {
	c.Helper()
	response, err := c.http.Post(url+"/create", "application/json", nil)
	if err != nil {
		c.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&created); err != nil || response.StatusCode != http.StatusOK {
		c.Fatalf("create: %s %v", response.Status, err)
	}
	return created
}

func (n *node) site() string {
	return fmt.Sprintf("http://:%d {\nbind 127.0.0.1\nmegaphone create write read exists manage health topics publish\n}\n", n.port)
}

func (n *node) url() string { return fmt.Sprintf("http://127.0.0.1:%d", n.port) }

func (n *node) start() { n.Start(n.settings(n.revision), n.site()) }

// reload changes a setting.
func (n *node) reload() error {
	n.revision++
	return n.Reload(n.settings(n.revision), n.site())
}
