package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// siteStub starts a site that answers as a test wants. It returns the site's URL.
func siteStub(t *testing.T, serve http.HandlerFunc) (url string) {
	t.Helper()
	server := httptest.NewServer(serve)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

func TestSendTellsWhatWasWrittenOfAnUnfinishedStream(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "megaphone {\nmax_message_size 1KB\n}")
	a := s.create()
	input := "1\nno JSON\n2\n3\n\"" + strings.Repeat("x", 2000) + "\"\n4\n"
	out, stderr := s.run(1, input, "send", "--json", a.ProducerAddress, "s")
	if want := fmt.Sprintf(`{"written":3,"failures":[{"channel":%q,"index":1,"reason":"BAD_REQUEST"}],"failuresTotal":1}`, a.ProducerAddress); strings.TrimSpace(out) != want {
		t.Errorf("send: %s%s", out, stderr)
	}
	if !strings.Contains(stderr, "413") {
		t.Errorf("send: %s", stderr)
	}
}

func TestSentMessagesAreMerged(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "megaphone {\nbuffer 1\nhold 0s\ninspect_messages\n}")
	a := s.create()
	s.run(0, "", "send", "--merge", "append", a.ProducerAddress, "s", `"a"`, `"b"`)
	s.run(0, "c\nd\n", "send", "--merge", "append", "--text", a.ProducerAddress, "s")
	if out, stderr := s.run(0, "", "show", "--json", "--messages", "9", a.ProducerAddress); !strings.Contains(out, `"abcd"`) {
		t.Errorf("show: %s%s", out, stderr)
	}
	if _, stderr := s.run(1, "", "send", "--merge", "Append", a.ProducerAddress, "s", "1"); !strings.Contains(stderr, "replace or append") {
		t.Errorf("send: %s", stderr)
	}
}

func TestInterruptedSendTellsWhatWasWritten(t *testing.T) {
	t.Parallel()
	s := newCommandServer(t, "")
	a := s.create()
	c := startCommand(t, s.command("send", a.ProducerAddress, "s"))
	fmt.Fprintln(c.input, 1)
	s.Await("the line is sent", func() bool {
		out, _ := s.run(0, "", "list", "--json", "--min-pending", "1")
		return out != ""
	})
	c.signal(os.Interrupt)
	if stdout, stderr := c.ends(interrupted); stdout != "sent 1\n" || strings.Contains(stderr, "not known") {
		t.Errorf("send: %s%s", stdout, stderr)
	}
}

func TestSendTellsWhatIsNotKnown(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	read := make(chan struct{}, 10)
	var silent, lost http.HandlerFunc = func(_ http.ResponseWriter, r *http.Request) {
		_, _ = r.Body.Read(make([]byte, 1))
		read <- struct{}{}
		_, _ = io.Copy(io.Discard, r.Body) // net/http notices that the client has left only after the body is read
		<-r.Context().Done()
	}, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = r.Body.Read(make([]byte, 1))
		panic(http.ErrAbortHandler)
	}
	for _, args := range [][]string{{"p.x", "s"}, {"p.x", "s", "1"}} {
		args = append([]string{"megaphone", "send", "--json"}, args...)
		c := startCommand(t, s.Command(append(args, "--url", siteStub(t, silent))...))
		fmt.Fprintln(c.input, 1)
		<-read
		c.signal(os.Interrupt)
		stdout, stderr := c.ends(interrupted)
		if !strings.Contains(stdout, `"written":0`) || !strings.Contains(stdout, `"unknown":1`) || !strings.Contains(stderr, "interrupted; it is not known whether") {
			t.Errorf("%v: %s%s", args, stdout, stderr)
		}

		c = startCommand(t, s.Command(append(args, "--url", siteStub(t, lost))...))
		fmt.Fprintln(c.input, 1)
		_ = c.input.Close()
		stdout, stderr = c.ends(1)
		if !strings.Contains(stdout, `"unknown":1`) || !strings.Contains(stderr, "it is not known whether") {
			t.Errorf("%v: %s%s", args, stdout, stderr)
		}

		// Without a connection, nothing was written.
		c = startCommand(t, s.Command(append(args, "--url", fmt.Sprintf("http://127.0.0.1:%d", testserver.FreePort(t)))...))
		fmt.Fprintln(c.input, 1)
		_ = c.input.Close()
		if stdout, stderr = c.ends(1); strings.Contains(stdout, "unknown") || !strings.Contains(stderr, "is not reachable") {
			t.Errorf("%v: %s%s", args, stdout, stderr)
		}
	}
}

func TestCommandsKeepThePasswordOfTheSite(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	plain := siteStub(t, func(http.ResponseWriter, *http.Request) {})
	for _, url := range []string{
		fmt.Sprintf("http://user:hunter2@127.0.0.1:%d", testserver.FreePort(t)),
		strings.Replace(plain, "//", "//user:hunter2@", 1),
		"user:hunter2@127.0.0.1:1",
		"ftp://user:hunter2@127.0.0.1:1",
		"http://user:hunter2@127.0.0.1:x",
		"http://127.0.0.1:1/?password=hunter2",
	} {
		for _, args := range [][]string{{"create"}, {"send", "p.x", "s", "1"}, {"tail", "c.x"}} {
			cmd := s.Command(append([]string{"megaphone"}, args...)...)
			cmd.Env = append(cmd.Env, "MEGAPHONE_URL="+url)
			output, err := cmd.CombinedOutput()
			if exitStatus(t, err) != 1 || strings.Contains(string(output), "hunter2") {
				t.Errorf("%v at %s: %v %s", args, url, err, output)
			}
		}
	}
}

func TestCommandsEscapeWhatServersSay(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	url := siteStub(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/read/c.refused":
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"code":"BUSY","message":"\u001b[2J\u009b31m"}`)
		case "/read/c.noise":
			w.Header().Set("Content-Type", "application/x-ndjson")
			fmt.Fprint(w, "\x1b[2J\n")
		case "/create":
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"producerAddress":"\u001b[2J","consumerAddress":"c"}`)
		case "/write":
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, `{"written":0,"failures":[{"channel":"\u001b[2J.abcdef","index":0,"reason":"\u001b[2J"}],"failuresTotal":1}`)
		}
	})
	for _, args := range [][]string{{"create"}, {"tail", "c.refused"}, {"tail", "c.noise"}, {"send", "--ndjson"}} {
		cmd := s.Command(append([]string{"megaphone", "--url", url}, args...)...)
		cmd.Stdin = strings.NewReader("{}\n")
		var output bytes.Buffer
		cmd.Stdout, cmd.Stderr = &output, &output
		_ = cmd.Run() // may fail: only the output matters
		// If standard error is not a terminal, Caddy's logger escapes the text once more.
		if text := strings.ReplaceAll(output.String(), `\\`, `\`); strings.ContainsAny(text, "\x1b\u009b") || !strings.Contains(text, `\u001b[2J`) {
			t.Errorf("%v: %q", args, text)
		}
	}
}

func TestCommandsSendTheHostThatTheyAreTold(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	url := siteStub(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"producerAddress":%q,"consumerAddress":"c"}`, r.Host)
	})
	output, err := s.Command("megaphone", "create", "--url", url, "-H", "host: push.internal").CombinedOutput()
	if err != nil || !strings.Contains(string(output), "push.internal") {
		t.Errorf("%v %s", err, output)
	}
}
