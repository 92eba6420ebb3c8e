// Package testserver runs the built binary for tests. The binary is Caddy with Megaphone. It runs in its own process,
// as a user would run it.
package testserver

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long a quick thing may take on a machine that is busy with other work.
const patience = 30 * time.Second

// A Server is a process that serves a configuration.
type Server struct {
	// Dir is the server's own folder. Its path is short enough for Unix sockets in it.
	Dir string

	tb   testing.TB
	cmd  *exec.Cmd
	log  Log
	done chan struct{}
	err  error // how the process ended, once done is closed
}

// New returns a server that is not started yet. When the test ends, the server is killed. If the test has failed, its
// output then includes the server's log.
func New(tb testing.TB) *Server {
	tb.Helper()
	dir, err := os.MkdirTemp("", "mp") //nolint:usetesting // its path is too long for a Unix socket
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{tb: tb, Dir: dir}
	tb.Cleanup(func() {
		if s.cmd != nil {
			s.Kill()
		}
		if tb.Failed() {
			tb.Logf("the server's log:\n%s", excerpt(s.Log()))
		}
		_ = os.RemoveAll(dir)
	})
	return s
}

// Socket returns the path of a Unix socket in the server's folder, for `bind unix/…`.
func (s *Server) Socket(name string) string { return filepath.Join(s.Dir, name+".sock") }

// Caddyfile returns a whole configuration. The options are global options. They follow those that every test needs.
func (s *Server) Caddyfile(options, sites string) string {
	return fmt.Sprintf(`{
	admin unix/%s
	persist_config off
	storage file_system %s
	skip_install_trust
	local_certs
	auto_https disable_redirects
	%s
}
%s
`, s.Socket("admin"), filepath.Join(s.Dir, "storage"), options, sites)
}

// Start runs the server with a configuration, and returns when it serves. env holds extra environment variables, as
// NAME=value.
func (s *Server) Start(options, sites string, env ...string) {
	s.tb.Helper()
	s.StartFile(s.Caddyfile(options, sites), env...)
}

// StartFile is like Start, but takes a whole Caddyfile. The Caddyfile must put the admin endpoint on Socket("admin").
func (s *Server) StartFile(caddyfile string, env ...string) {
	s.tb.Helper()
	config := filepath.Join(s.Dir, "Caddyfile")
	if err := os.WriteFile(config, []byte(caddyfile), 0o600); err != nil {
		s.tb.Fatal(err)
	}
	_ = os.Remove(s.Socket("admin")) // an earlier start may have left it
	s.cmd = s.Command("run", "--config", config, "--adapter", "caddyfile")
	s.cmd.Env = append(s.cmd.Env, env...)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	earlier := len(s.Log())
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatal(err)
	}
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		s.err = s.cmd.Wait()
	}()
	s.Await("the server serves", func() bool {
		select {
		case <-s.done:
			s.tb.Fatalf("the server has ended: %v", s.err)
		default:
		}
		return strings.Contains(s.Log()[earlier:], "serving initial configuration")
	})
}

// Command returns a command that runs the binary with the server's environment.
func (s *Server) Command(args ...string) *exec.Cmd {
	s.tb.Helper()
	cmd := exec.Command(Binary(s.tb), args...)
	cmd.Dir = s.Dir
	cmd.Env = append(os.Environ(), "HOME="+s.Dir, "XDG_DATA_HOME="+s.Dir, "XDG_CONFIG_HOME="+s.Dir)
	return cmd
}

// Reload replaces the configuration through the admin endpoint. If the server refuses, the error contains its answer.
func (s *Server) Reload(options, sites string) error {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	response, err := s.load(ctx, s.Caddyfile(options, sites))
	// The admin endpoint of an earlier configuration may accept a connection while it shuts down, and drop it. Loading a
	// configuration again changes nothing.
	for errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		response, err = s.load(ctx, s.Caddyfile(options, sites))
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		return fmt.Errorf("%s: %s", response.Status, text)
	}
	return nil
}

// load posts a Caddyfile to the admin endpoint.
func (s *Server) load(ctx context.Context, caddyfile string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/load", strings.NewReader(caddyfile))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "text/caddyfile")
	return s.Admin().Do(r)
}

// Admin returns a client for the admin endpoint. Use any URL that begins with http://localhost.
func (s *Server) Admin() *http.Client { return UnixClient(s.tb, s.Socket("admin")) }

// UnixClient returns an HTTP client that connects to a Unix socket, whatever the host in the URL.
func UnixClient(tb testing.TB, socket string) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: 100,
	}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Roots returns the root certificates with which a client trusts the server's local certificates.
func (s *Server) Roots() *x509.CertPool {
	s.tb.Helper()
	pool := x509.NewCertPool()
	s.Await("there is a root certificate", func() bool {
		for _, storage := range []string{"storage", "caddy"} { // with the settings of Caddyfile, and without them
			pem, err := os.ReadFile(filepath.Join(s.Dir, storage, "pki", "authorities", "local", "root.crt"))
			if err == nil && pool.AppendCertsFromPEM(pem) {
				return true
			}
		}
		return false
	})
	return pool
}

// Pid returns the process ID.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Signal sends the process a signal.
func (s *Server) Signal(signal syscall.Signal) {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		s.tb.Fatal(err)
	}
}

// Kill kills the process, unless it has ended already, and waits until it has ended.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // or it has ended
	<-s.done
}

// Done is closed when the process has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// Stop sends SIGTERM to the process and waits until it has ended.
func (s *Server) Stop() {
	s.tb.Helper()
	s.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(patience):
		s.tb.Fatal("the server did not stop")
	}
}

// Log returns the output of the process so far.
func (s *Server) Log() string { return s.log.String() }

// Await waits until a condition holds. It checks often at first, and less often when it takes longer. It fails the test if
// that takes too long.
func (s *Server) Await(what string, condition func() bool) {
	s.tb.Helper()
	for start := time.Now(); !condition(); time.Sleep(max(5*time.Millisecond, time.Since(start)/30)) {
		if time.Since(start) > patience {
			s.tb.Fatalf("gave up waiting until %s; the log:\n%s", what, s.Log())
		}
	}
}
