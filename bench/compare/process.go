package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	serverCore = 0
	loadCore   = 1
)

// bothCores stands in for a core's number if a process may use both cores.
const bothCores = -1

// pinSelf restarts this process on the load's core, so that all of its threads run there.
func pinSelf(core int) error {
	const pinned = "MEGAPHONE_BENCH_PINNED"
	if os.Getenv(pinned) != "" {
		return nil
	}
	if runtime.NumCPU() < 2 {
		return errors.New("this needs two cores: one for the server, one for the load")
	}
	runtime.LockOSThread() // never unlocked: exec keeps the affinity of the thread that calls it
	if err := setAffinity(core); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(self, os.Args, append(os.Environ(), pinned+"=1")) //nolint:gosec // itself
}

// setAffinity binds the calling thread to a core, or to both cores.
func setAffinity(core int) error {
	var set unix.CPUSet
	if core == bothCores {
		set.Set(serverCore)
		set.Set(loadCore)
	} else {
		set.Set(core)
	}
	return unix.SchedSetaffinity(0, &set)
}

var dialer net.Dialer

// A process is a running server.
type process struct {
	cmd     *exec.Cmd
	address string
	admin   string // the Unix socket of Caddy's admin endpoint; only set when profiles are taken
	dir     string // for what the server writes
	output  *bytes.Buffer
	exited  chan struct{}
}

// start runs a server on a core and waits until it accepts connections.
func start(ctx context.Context, p *peer, s settings, core int, dir string) (*process, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp(dir, p.name); err != nil {
		return nil, err
	}
	server := &process{address: address, dir: s.dir, output: new(bytes.Buffer), exited: make(chan struct{})}
	if s.profile {
		server.admin = filepath.Join(s.dir, "admin.sock")
		s.admin = "unix/" + server.admin
	}
	config := filepath.Join(s.dir, "server.conf")
	if err := os.WriteFile(config, []byte(p.config(address, s)), 0o600); err != nil {
		return nil, err
	}
	server.cmd = exec.CommandContext(ctx, p.binary, p.args(config)...) //nolint:gosec // we built the binary
	server.cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+s.dir, "XDG_DATA_HOME="+s.dir)
	server.cmd.Stdout, server.cmd.Stderr = server.output, server.output
	if err := server.spawn(core); err != nil {
		return nil, err
	}
	if err := server.awaitReady(ctx); err != nil {
		server.stop()
		return nil, fmt.Errorf("%s: %w\n%s", p.name, err, server.output)
	}
	return server, nil
}

// onCore calls start, which must start a process. The process runs on the core, because it inherits the affinity of the
// thread that starts it.
func onCore(core int, start func() error) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends with this goroutine
		err := setAffinity(core)
		if err == nil {
			err = start()
		}
		started <- err
	}()
	return <-started
}

// spawn starts the process on a core.
func (s *process) spawn(core int) error {
	if err := onCore(core, s.cmd.Start); err != nil {
		return err
	}
	go func() {
		defer close(s.exited)
		_ = s.cmd.Wait()
	}()
	return nil
}

func (s *process) awaitReady(ctx context.Context) error {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case <-s.exited:
			return errors.New("the server has ended")
		default:
		}
		if conn, err := dialer.DialContext(ctx, "tcp", s.address); err == nil {
			return conn.Close()
		}
	}
	return errors.New("the server does not answer")
}

func (s *process) stop() {
	_ = s.cmd.Process.Kill()
	<-s.exited
	_ = os.RemoveAll(s.dir)
}

func freeAddress() (string, error) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String(), nil
}

// clockTick is the unit of the times in /proc/PID/stat. It is 1/USER_HZ, and USER_HZ is 100 on every Linux that Go runs
// on.
const clockTick = time.Second / 100

// cpu returns the CPU time that the process has used.
func (s *process) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The second field is a name in parentheses. The 14th and 15th fields are utime and stime (proc(5)).
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	ticks := 0
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// rss returns the resident memory of the process in bytes.
func (s *process) rss() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// profile fetches a profile from Caddy's admin endpoint and writes it to a file.
func (s *process) profile(ctx context.Context, name, file string) error {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", s.admin)
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/debug/pprof/"+name, nil)
	if err != nil {
		return err
	}
	request.Host = ""
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("profile %s: %s: %s", name, response.Status, body)
	}
	return os.WriteFile(file, body, 0o600)
}
