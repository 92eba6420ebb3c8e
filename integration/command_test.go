package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// A commandServer is a server for the tests of `caddy megaphone`.
type commandServer struct {
	*testserver.Server
	*testing.T

	url string
}

func newCommandServer(t *testing.T, settings string) *commandServer {
	t.Helper()
	s := &commandServer{testserver.New(t), t, ""}
	s.url = fmt.Sprintf("http://127.0.0.1:%d", testserver.FreePort(t))
	s.Start(settings, s.site("megaphone"))
	return s
}

func (s *commandServer) site(directive string) string {
	return s.url + " {\nbind 127.0.0.1\n" + directive + "\n}"
}

// command returns a call of `caddy megaphone` with the flag for this server's site or admin endpoint.
func (s *commandServer) command(args ...string) *exec.Cmd {
	s.Helper()
	switch args[0] {
	case "create", "send", "tail":
		args = append(args, "--url", s.url)
	default:
		args = append(args, "--address", "unix/"+s.Socket("admin"))
	}
	return s.Command(append([]string{"megaphone"}, args...)...)
}

// run calls `caddy megaphone`, which must exit with this status. It returns what the command prints.
func (s *commandServer) run(status int, input string, args ...string) (stdout, stderr string) {
	s.Helper()
	cmd := s.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if got := exitStatus(s.T, cmd.Wait()); got != status {
		s.Errorf("caddy megaphone %v: status %d, want %d\n%s%s", args, got, status, &out, &errs)
	}
	return out.String(), errs.String()
}

func exitStatus(t *testing.T, err error) int {
	t.Helper()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

// decode decodes a line of JSON.
func decode[T any](t *testing.T, line string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(line), &v); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return v
}

func (s *commandServer) create() channel {
	s.Helper()
	out, _ := s.run(0, "", "create", "--json")
	return decode[channel](s.T, out)
}

// shown is the JSON of a channel, as list and show print it.
type shown struct {
	ID, Agent, Producer, Consumer string
	Connected                     bool
	Pending, InFlight             int
	Messages                      []struct {
		Message struct{ Body json.RawMessage }
	}
}

// TestShowTellsTheCloseCode closes a WebSocket as a client does that reads only small messages.
func TestShowTellsTheCloseCode(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "debug\nlog {\nexclude events\n}")
	c := s.create()
	s.run(0, "", "send", c.ProducerAddress, "news", "1")
	conn, _, err := websocket.Dial(s.Context(), s.url+"/read/"+c.ConsumerAddress+"?after=", nil)
	if err != nil {
		s.Fatal(err)
	}
	defer conn.CloseNow()
	conn.SetReadLimit(1)
	if _, _, err := conn.Read(s.Context()); err == nil {
		s.Error("the client has read the message")
	}
	s.Await("the log has the code", func() bool { return strings.Contains(s.Log(), `"close_code":1009}`) })
	if log := s.Log(); !strings.Contains(log, "a client refuses a message that is too large for it") ||
		!strings.Contains(log, "https://github.com/caddy-megaphone/megaphone/blob/main/docs/troubleshooting.md#a-message-is-too-large-for-a-client") || strings.Contains(log, c.ConsumerAddress) {
		s.Errorf("the log is\n%s", log)
	}
	if out, _ := s.run(0, "", "show", c.ConsumerAddress); !strings.Contains(out, "1009: a message is too large for the client") {
		s.Errorf("show: %s", out)
	}
}

func TestCommandsForChannels(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "megaphone {\ninspect_messages\n}")
	a, b := s.create(), s.create()
	s.run(0, "", "send", a.ProducerAddress, "news", `{"n":1}`, `2`)

	table, _ := s.run(0, "", "list")
	if lines := strings.Split(strings.TrimSpace(table), "\n"); len(lines) != 3 || !strings.HasPrefix(lines[0], "ID ") || strings.Contains(table, a.ConsumerAddress) {
		t.Errorf("list:\n%s", table)
	}
	out, _ := s.run(0, "", "list", "--json", "--disconnected", "--min-pending", "2", "--agent", "main", "--min-age", "0s")
	listed := decode[shown](t, out)
	if listed.Pending != 2 || listed.Agent != "main" || listed.Connected || !strings.HasPrefix(a.ConsumerAddress, strings.TrimSuffix(listed.Consumer, "…")) {
		t.Errorf("list --json: %s", out)
	}
	if out, _ := s.run(0, "", "list", "--json", "--limit", "1"); strings.Count(out, "\n") != 1 {
		t.Errorf("list --limit 1: %s", out)
	}
	if out, _ := s.run(0, "", "list", "--json", "--connected"); out != "" {
		t.Errorf("list --connected: %s", out)
	}

	for _, name := range []string{listed.ID, a.ConsumerAddress, a.ProducerAddress} {
		out, _ := s.run(0, "", "show", "--json", "--messages", "1", name)
		if got := decode[shown](t, out); got.ID != listed.ID || len(got.Messages) != 1 || string(got.Messages[0].Message.Body) != `{"n":1}` {
			t.Errorf("show %s: %s", name, out)
		}
	}
	if out, _ := s.run(0, "", "show", listed.ID); !strings.Contains(out, listed.ID) || !strings.Contains(out, "pending") {
		t.Errorf("show: %s", out)
	}
	s.run(4, "", "show", "0000000000000000")
	var stats struct{ Channels, Pending int }
	out, _ = s.run(0, "", "stats", "--json")
	if stats = decode[struct{ Channels, Pending int }](t, out); stats.Channels != 2 || stats.Pending != 2 {
		t.Errorf("stats: %s", out)
	}
	if out, _ := s.run(0, "", "stats"); !strings.Contains(out, "2 of 1,000,000") {
		t.Errorf("stats: %s", out)
	}

	out, _ = s.run(0, "", "list", "--json", "--min-pending", "1")
	if out, _ := s.run(0, out, "delete", "-"); out != "deleted 1\n" {
		t.Errorf("delete: %s", out)
	}
	if out, _ := s.run(4, "", "delete", "--json", listed.ID, b.ConsumerAddress); strings.TrimSpace(out) != `{"deleted":1,"notFound":["`+listed.ID+`"]}` {
		t.Errorf("delete: %s", out)
	}
}

func TestCommandsForMessages(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "megaphone {\nhold 0s\nbuffer 5\n}")
	a := s.create()
	if out, _ := s.run(0, "", "create"); !strings.Contains(out, "producer address  main.") {
		t.Errorf("create: %s", out)
	}
	s.run(0, "", "send", "--text", a.ProducerAddress, "s/1", "a \"b\"\n")
	s.run(0, "", "send", "--key", "k", a.ProducerAddress, "s", "1")
	s.run(0, "", "send", "--key", "k", a.ProducerAddress, "s", "1")
	if out, _ := s.run(0, "{\"x\": 1}\n\n2", "send", "--json", a.ProducerAddress, "s"); strings.TrimSpace(out) != `{"written":2,"failures":[],"failuresTotal":0}` {
		t.Errorf("send: %s", out)
	}
	line := fmt.Sprintf(`{"channel":%q,"streamId":"s","body":%%d}`+"\n", a.ProducerAddress)
	s.run(0, fmt.Sprintf(line, 5), "send", "--ndjson")
	s.run(5, fmt.Sprintf(line, 6), "send", "--ndjson")
	s.run(5, "", "send", a.ProducerAddress, "s", "6")

	out, _ := s.run(0, "", "tail", "--json", "--count", "5", a.ConsumerAddress)
	var got []string
	for line := range strings.Lines(out) {
		m := decode[message](t, line)
		got = append(got, m.SID+" "+string(m.Body))
	}
	want := []string{`s/1 "a \"b\"\n"`, "s 1", `s {"x":1}`, "s 2", "s 5"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("tail printed %q, want %q", got, want)
	}
	// The printed messages are settled, so tail does not get them again.
	s.run(0, "last\u009b31m", "send", "--text", a.ProducerAddress, "s\x1b[2J")
	// tail escapes control characters.
	if out, _ := s.run(0, "", "tail", "--count", "1", a.ConsumerAddress); !strings.HasSuffix(out, `  s\u001b[2J  "last\u009b31m"`+"\n") {
		t.Errorf("tail: %s", out)
	}

	s.run(4, "", "send", a.ConsumerAddress, "s", "1")
	s.run(4, "1\n", "send", a.ConsumerAddress, "s")
	s.run(4, "", "tail", a.ProducerAddress)
	if _, errs := s.run(1, "1\nnot JSON\n", "send", a.ProducerAddress, "s"); !strings.Contains(errs, "line 2") || strings.Contains(errs, a.ProducerAddress) {
		t.Errorf("send: %s", errs)
	}
	s.run(1, "", "send", a.ProducerAddress, "s", "not JSON")
	s.run(1, "", "send", "--key", "k", a.ProducerAddress, "s")
	s.run(1, "", "create", "-H", "no colon")
}

func TestCommandsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"list", "--address", "unix/" + s.Socket("none")}, "does not answer"},
		{[]string{"list", "--config", filepath.Join(s.Dir, "none")}, "cannot determine the address of the admin API"},
		{[]string{"list", "--connected", "--disconnected"}, "none of the others can be"},
		{[]string{"drain", "--wait", "--undo"}, "none of the others can be"},
		{[]string{"drain", "--timeout", "1s"}, "--timeout needs --wait"},
		{[]string{"show"}, "at least 1 arg"},
		{[]string{"unknown"}, "unknown command"},
		{[]string{"create", "--url", "localhost"}, "is not a valid URL of a site"},
		{[]string{"create", "--url", fmt.Sprintf("http://127.0.0.1:%d", testserver.FreePort(t))}, "is not reachable"},
	} {
		output, err := s.Command(append([]string{"megaphone"}, test.args...)...).CombinedOutput()
		if exitStatus(t, err) != 1 || !strings.Contains(string(output), test.want) {
			t.Errorf("%v: %v, %s, want %q", test.args, err, output, test.want)
		}
	}
	c := newCommandServer(t, "")
	if err := c.Reload("", c.site("respond /create ok")); err != nil {
		t.Fatal(err)
	}
	if out, err := c.command("list").CombinedOutput(); exitStatus(t, err) != 4 || !strings.Contains(string(out), "has no megaphone") {
		t.Errorf("list: %s", out)
	}
	if out, err := c.command("tail", "main.x").CombinedOutput(); exitStatus(t, err) != 1 {
		t.Errorf("tail: %s", out)
	}
}

func TestCommandsFindTheAdminAPIByConfig(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "")
	for _, adapter := range [][]string{nil, {"--adapter", "caddyfile"}} {
		args := append([]string{"megaphone", "stats", "--json", "--config", filepath.Join(s.Dir, "Caddyfile")}, adapter...)
		output, err := s.Command(args...).Output()
		if err != nil || !strings.Contains(string(output), `"channels":0`) {
			t.Errorf("%v: %v %s", args, err, output)
		}
	}
}

func TestCommandsCompleteIDs(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "")
	s.create()
	out, _ := s.run(0, "", "list", "--json")
	id := decode[shown](t, out).ID
	output, err := s.Command("__complete", "megaphone", "show", "--address", "unix/"+s.Socket("admin"), "").Output()
	if err != nil || !strings.HasPrefix(string(output), id+"\tmain, 0 pending") {
		t.Errorf("%v %s", err, output)
	}
	output, err = s.Command("__complete", "megaphone", "d").Output()
	if err != nil || !strings.Contains(string(output), "delete\t") || !strings.Contains(string(output), "drain\t") {
		t.Errorf("%v %s", err, output)
	}
}

func TestTailFollowsOverARestartOfTheRead(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "megaphone {\nread_duration 1s\n}")
	a := s.create()
	cmd := s.command("tail", "--json", a.ConsumerAddress)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	lines := bufio.NewReader(stdout)
	input, writer := io.Pipe()
	send := s.command("send", a.ProducerAddress, "s")
	send.Stdin = input
	if err := send.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range 4 { // each line must arrive while the sender is still running
		if _, err := fmt.Fprintln(writer, i); err != nil {
			t.Fatal(err)
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if m := decode[struct{ Body int }](t, line); m.Body != i {
			t.Errorf("got %s, want %d", line, i)
		}
		time.Sleep(400 * time.Millisecond)
	}
	_ = writer.Close()
	if err := send.Wait(); err != nil {
		t.Error(err)
	}
	// When the channel is deleted, tail exits with the status for that.
	s.run(0, "", "delete", a.ConsumerAddress)
	if status := exitStatus(t, cmd.Wait()); status != 4 {
		t.Errorf("tail ended with %d", status)
	}
}

func TestTailEndsWhenInterrupted(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "")
	a := s.create()
	cmd := s.command("tail", a.ConsumerAddress)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.Await("the channel is read", func() bool {
		out, _ := s.run(0, "", "list", "--json", "--connected")
		return out != ""
	})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if status := exitStatus(t, cmd.Wait()); status != 0 {
		t.Errorf("status %d", status)
	}
}
