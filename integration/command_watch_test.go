package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestWatchSurvivesTheServer watches the channels of a server that goes away and comes back. An interrupted watch is done.
func TestWatchSurvivesTheServer(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	asked := make(chan struct{}, 1000)
	serve := func() (stop func()) {
		listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", s.Socket("admin"))
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"channels":[]}`)
			asked <- struct{}{}
		})}
		go func() { _ = server.Serve(listener) }()
		return func() { _ = server.Close() }
	}
	stop := serve()
	cmd := s.Command("megaphone", "list", "--watch", "--interval", "100ms", "--address", "unix/"+s.Socket("admin"))
	var out bytes.Buffer
	cmd.Stdout = &out
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() }) // which ends all waits below
	defer timer.Stop()
	lines := bufio.NewScanner(errs)
	says := func(want string) {
		t.Helper()
		if !lines.Scan() || !strings.Contains(lines.Text(), want) {
			t.Errorf("standard error says %q, want %q", lines.Text(), want)
		}
	}
	awaitAsked := func() {
		t.Helper()
		select {
		case <-asked:
		case <-time.After(time.Minute):
			t.Fatal("the watch does not ask")
		}
	}
	awaitAsked()
	awaitAsked() // so the first answer was shown
	stop()
	says("does not answer")
	defer serve()()
	says("the server answers again")
	awaitAsked()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if lines.Scan() {
		t.Errorf("standard error says more: %q", lines.Text())
	}
	if status := exitStatus(t, cmd.Wait()); status != 0 {
		t.Errorf("the status is %d", status)
	}
	if text := out.String(); !strings.Contains(text, "EXPIRES\n\nID  AGENT") || strings.Contains(text, "\x1b") {
		t.Errorf("printed %q", text)
	}
}
