package redis_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker/redis"
)

// A server is a redis-server that the tests have started, on a Unix socket.
type server struct {
	socket  string
	args    []string
	process *exec.Cmd
}

var shared = sync.OnceValues(func() (*server, error) { return startServer(tempDir) })

// started are other servers that live until the tests end.
var started []*server

// tempDir is where the servers' sockets are. TestMain removes it.
var tempDir string

func TestMain(m *testing.M) {
	if reader := os.Getenv(readerProcess); reader != "" {
		runReader(reader)
	}
	tempDir, _ = os.MkdirTemp("", "megaphone-redis")
	code := m.Run()
	if enabled() {
		if s, err := shared(); err == nil {
			s.stop()
		}
	}
	for _, s := range started {
		s.stop()
	}
	_ = os.RemoveAll(tempDir)
	os.Exit(code)
}

// program is the server that the tests run: redis-server, or another one such as valkey-server.
func program() string { return cmp.Or(os.Getenv("MEGAPHONE_REDIS_SERVER"), "redis-server") }

func enabled() bool { return os.Getenv("MEGAPHONE_REDIS") != "" }

// sharedServer returns the server that tests share. Each test uses keys of its own.
func sharedServer(t *testing.T) *server {
	t.Helper()
	needsRedis(t)
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func needsRedis(t *testing.T) {
	t.Helper()
	if !enabled() {
		t.Skip("needs redis-server 7 and takes half a minute: MEGAPHONE_REDIS=1 go test ./broker/redis")
	}
	if _, err := exec.LookPath(program()); err != nil {
		t.Skip("redis-server is not installed: apt-get install redis-server")
	}
}

// startServer starts a redis-server. Further arguments are settings.
func startServer(dir string, args ...string) (*server, error) {
	s := &server{socket: filepath.Join(dir, rand.Text()[:8]+".sock")}
	s.args = append([]string{"--port", "0", "--unixsocket", s.socket, "--save", "", "--dir", dir}, args...)
	return s, s.start()
}

// start starts the server, also again after stop.
func (s *server) start() error {
	s.process = exec.Command(program(), s.args...)
	if err := s.process.Start(); err != nil {
		return err
	}
	for range 1000 {
		if c, err := net.Dial("unix", s.socket); err == nil {
			_ = c.Close()
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.stop()
	return errors.New("redis-server does not start")
}

func (s *server) stop() {
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
}

// cli runs a command on the server, and returns what redis-cli prints.
func (s *server) cli(args ...string) string {
	out, _ := exec.Command("redis-cli", append([]string{"-s", s.socket}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out))
}

// pause stops the server without ending it.
func (s *server) pause(t *testing.T) {
	t.Helper()
	if err := s.process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

func (s *server) resume(t *testing.T) {
	t.Helper()
	if err := s.process.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

func (s *server) options(prefix string) redis.Options {
	return redis.Options{
		Addresses: []string{s.socket}, KeyPrefix: prefix, DialTimeout: redis.DefaultDialTimeout, Timeout: redis.DefaultTimeout,
	}
}

func dialUnix(ctx context.Context, path string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
	return d.DialContext(ctx, "unix", path)
}

// open starts a Broker.
func open(t testing.TB, o redis.Options) *redis.Broker {
	t.Helper()
	b, err := redis.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := b.Start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	return b
}
