package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestMain runs the demo itself if a test has started this process.
func TestMain(m *testing.M) {
	if os.Getenv("DEMO_UNDER_TEST") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestTheDemoRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	dir, err := os.MkdirTemp("", "mp") //nolint:usetesting // its path is too long for a Unix socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	port := testserver.FreePort(t)
	run := exec.CommandContext(t.Context(), os.Args[0])
	run.Dir = "../.."
	run.Env = append(os.Environ(), "DEMO_UNDER_TEST=1", "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir,
		"ANSWER_ADMIN=unix/"+filepath.Join(dir, "admin.sock"), fmt.Sprintf("ANSWER_PORT=%d", port),
		fmt.Sprintf("ANSWER_MEGAPHONE=127.0.0.1:%d", testserver.FreePort(t)), fmt.Sprintf("ANSWER_BACKEND=127.0.0.1:%d", testserver.FreePort(t)))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	run.Stdout, run.Stderr = log, log
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- run.Wait() }()
	defer func() {
		_ = run.Process.Kill()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("the demo's log:\n%s", text)
		}
	}()

	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	site := fmt.Sprintf("https://localhost:%d", port)
	get := func(path string) (text string) {
		response, err := client.Get(site + path)
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		return response.Status + string(body)
	}
	for deadline := time.Now().Add(30 * time.Second); !strings.HasPrefix(get("/"), "200"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the page: %s", get("/"))
		}
	}
	for path, has := range map[string]string{"/": "<title>Answers", "/answer.js": "new Megaphone", "/answer.css": "prefers-color-scheme", "/client/megaphone.js": "Megaphone"} {
		if text := get(path); !strings.Contains(text, has) {
			t.Errorf("%s: %.80s", path, text)
		}
	}

	ask := func(what, body string, reply any) {
		t.Helper()
		response, err := client.Post(site+"/api/"+what, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if err := json.NewDecoder(response.Body).Decode(reply); err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %v", what, response.Status, err)
		}
	}
	var asked struct{ Answer string }
	ask("ask", `{"question":"Why?","seconds":1}`, &asked)
	var page struct{ ConsumerAddress string }
	ask("read", `{"answer":"`+asked.Answer+`"}`, &page)
	response, err := client.Get(site + "/read/" + page.ConsumerAddress)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); ; {
		if !lines.Scan() {
			t.Fatalf("the end has not come: %v", lines.Err())
		}
		if strings.Contains(lines.Text(), `"end":"done"`) {
			break
		}
	}

	if err := run.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the demo ended: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the demo does not end")
	}
}
