package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// interrupted is the exit status of an interrupted command.
const interrupted = 130

// A startedCommand is a running call of `caddy megaphone`.
type startedCommand struct {
	*testing.T
	*exec.Cmd

	input    io.WriteCloser
	out, err bytes.Buffer
}

// startCommand starts a command. Its standard input stays open. After a minute, the command is killed.
func startCommand(t *testing.T, cmd *exec.Cmd) *startedCommand {
	t.Helper()
	c := &startedCommand{T: t, Cmd: cmd}
	cmd.Stdout, cmd.Stderr = &c.out, &c.err
	var err error
	if c.input, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() { timer.Stop() })
	return c
}

// ends waits until the command exits, which must be with this status. It returns the command's output.
func (c *startedCommand) ends(status int) (stdout, stderr string) {
	c.Helper()
	if got := exitStatus(c.T, c.Wait()); got != status {
		c.Errorf("%v: status %d, want %d\n%s%s", c.Args, got, status, &c.out, &c.err)
	}
	return c.out.String(), c.err.String()
}

func (c *startedCommand) signal(s os.Signal) {
	c.Helper()
	if err := c.Process.Signal(s); err != nil {
		c.Fatal(err)
	}
}

// silentServer accepts connections and never answers. It sends a value to the returned channel for each connection.
func silentServer(t *testing.T, network, address string) <-chan struct{} {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	accepted := make(chan struct{}, 100)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = connection.Close() })
			accepted <- struct{}{}
		}
	}()
	return accepted
}

func TestAdminCommandsCanBeInterrupted(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	address := "unix/" + s.Socket("admin")
	accepted := silentServer(t, "unix", s.Socket("admin"))
	for _, args := range [][]string{{"stats"}, {"list"}, {"show", "x"}, {"delete", "x"}, {"drain"}, {"drain", "--status"}} {
		for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
			c := startCommand(t, s.Command(append([]string{"megaphone", "--address", address}, args...)...))
			<-accepted
			c.signal(signal)
			if _, stderr := c.ends(interrupted); !strings.Contains(stderr, "interrupted") || strings.Contains(stderr, "does not answer") {
				t.Errorf("%v: %s", args, stderr)
			}
		}
	}
}

func TestInterruptedDeleteDeletesNothing(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "")
	for range 3 {
		s.create()
	}
	listed, _ := s.run(0, "", "list", "--json")
	c := startCommand(t, s.command("delete", "-"))
	// The input is more than a pipe holds. So when the write returns, the command is running and can be interrupted.
	if _, err := io.WriteString(c.input, listed+strings.Repeat("\n", 1<<18)); err != nil {
		t.Fatal(err)
	}
	c.signal(os.Interrupt)
	if stdout, stderr := c.ends(interrupted); stdout != "" || !strings.Contains(stderr, "nothing was deleted") {
		t.Errorf("delete: %s%s", stdout, stderr)
	}
	if now, _ := s.run(0, "", "list", "--json"); strings.Count(now, "\n") != 3 {
		t.Errorf("the channels that are left: %s", now)
	}
}

// adminStub serves requests in place of the admin API.
func adminStub(t *testing.T, socket string, serve http.HandlerFunc) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: serve, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

func TestInterruptedListIsNoWholeList(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	asked := make(chan struct{}, 10)
	adminStub(t, s.Socket("admin"), func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("cursor") {
			asked <- struct{}{}
			<-r.Context().Done()
			return
		}
		fmt.Fprint(w, `{"channels":[{"id":"0000000000000001"}],"next":"0000000000000001"}`)
	})
	c := startCommand(t, s.Command("megaphone", "list", "--json", "--address", "unix/"+s.Socket("admin")))
	<-asked
	c.signal(os.Interrupt)
	if stdout, stderr := c.ends(interrupted); stdout != "" || !strings.Contains(stderr, "interrupted") {
		t.Errorf("list: %s%s", stdout, stderr)
	}
}

func TestInterruptedDeleteTellsHowFarItCame(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	var requests int
	asked := make(chan struct{}, 10)
	adminStub(t, s.Socket("admin"), func(w http.ResponseWriter, r *http.Request) {
		if requests++; requests > 1 { // no lock: the command sends one request after the other
			_, _ = io.Copy(io.Discard, r.Body)
			asked <- struct{}{}
			<-r.Context().Done()
			return
		}
		var body struct{ Channels []string }
		_ = json.NewDecoder(r.Body).Decode(&body)
		fmt.Fprintf(w, `{"deleted":%d,"notFound":[]}`, len(body.Channels))
	})
	c := startCommand(t, s.Command("megaphone", "delete", "-", "--address", "unix/"+s.Socket("admin")))
	for i := range 1500 {
		fmt.Fprintf(c.input, "%016x\n", i)
	}
	_ = c.input.Close()
	<-asked
	c.signal(os.Interrupt)
	if _, stderr := c.ends(interrupted); !strings.Contains(stderr, "1000 of 1500 channels were deleted, and perhaps some of 500 more") {
		t.Errorf("delete: %s", stderr)
	}
}

func TestDrainTimesOutWhereTheServerDoesNotAnswer(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	address := "unix/" + s.Socket("admin")
	silentServer(t, "unix", s.Socket("admin"))
	begun := time.Now()
	c := startCommand(t, s.Command("megaphone", "drain", "--wait", "--timeout", "1s", "--address", address))
	if _, stderr := c.ends(6); !strings.Contains(stderr, "not drained after 1s") || time.Since(begun) > 20*time.Second {
		t.Errorf("drain, after %v: %s", time.Since(begun), stderr)
	}
}

func TestDrainTimesOutWhereTheServerAnswersNoMore(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	adminStub(t, s.Socket("admin"), func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			<-r.Context().Done()
			return
		}
		fmt.Fprint(w, `{"draining":true,"channels":7,"remaining":7}`)
	})
	c := startCommand(t, s.Command("megaphone", "drain", "--wait", "--timeout", "1s", "--address", "unix/"+s.Socket("admin")))
	if _, stderr := c.ends(6); !strings.Contains(stderr, "not drained after 1s") || !strings.Contains(stderr, `remaining\":7`) {
		t.Errorf("drain: %s", stderr)
	}
}

func TestInterruptedDrainGoesOn(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "")
	a := s.create()
	s.run(0, "", "send", a.ProducerAddress, "s", "1")
	c := startCommand(t, s.command("drain", "--over", "0s", "--wait"))
	s.Await("the drain has begun", func() bool {
		out, _ := s.run(0, "", "drain", "--status")
		return strings.HasPrefix(out, "draining")
	})
	c.signal(os.Interrupt)
	if _, stderr := c.ends(interrupted); !strings.Contains(stderr, "interrupted; the drain goes on") {
		t.Errorf("drain: %s", stderr)
	}
}
