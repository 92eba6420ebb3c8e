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
	local := func() string { return fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(t)) }
	megaphone, backend := local(), local()
	demo := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "DEMO_UNDER_TEST=1", "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+filepath.Join(dir, "cache"),
			"DEMO_ADMIN=unix/"+filepath.Join(dir, "admin.sock"), fmt.Sprintf("DEMO_PORT=%d", port), "DEMO_MEGAPHONE="+megaphone, "DEMO_BACKEND="+backend, "DEMO_PAUSE=50ms")
		return cmd
	}
	run := demo()
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

	client := &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	}
	site := fmt.Sprintf("https://localhost:%d", port)
	get := func(url string) (status int, body string) {
		t.Helper()
		response, err := client.Get(url)
		if err != nil {
			return 0, err.Error()
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(text)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		status, body := get(site + "/")
		if status == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the page: %d %s", status, body)
		}
	}
	for url, has := range map[string]string{
		site + "/": "<title>Chat", site + "/chat.js": "new Megaphone", site + "/client/megaphone.js": "Megaphone",
		"http://" + megaphone + "/ui/": "Megaphone Inspector",
	} {
		if status, body := get(url); status != http.StatusOK || !strings.Contains(body, has) {
			t.Errorf("%s: %d %.80s", url, status, body)
		}
	}
	if status, _ := get(site + "/ui/"); status != http.StatusNotFound {
		t.Errorf("the public site serves the Inspector: %d", status)
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
	press := func(button string) {
		t.Helper()
		response, err := client.Post(site+"/demo/"+button, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", button, response.Status)
		}
	}
	var page struct{ ConsumerAddress string }
	ask("enter", `{"room":"lobby"}`, &page)
	press("reload")
	if output, err := demo("reload", "--config", caddyfile, "--force").CombinedOutput(); err != nil {
		t.Fatalf("reload: %v\n%s", err, output)
	}
	ask("say", `{"room":"lobby","user":"user-of-a-test","name":"Ann","id":"message-1","text":"hello"}`, new(any))
	response, err := client.Get(site + "/read/" + page.ConsumerAddress)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); ; {
		if !lines.Scan() {
			t.Fatalf("the message has not come: %v", lines.Err())
		}
		if strings.Contains(lines.Text(), `"text":"hello"`) {
			break
		}
	}

	// The button that stops the server ends its channels, and the server comes back.
	press("stop")
	exists := func() string {
		response, err := client.Post("http://"+megaphone+"/channelsExists", "application/json", strings.NewReader(`{"channels":["`+page.ConsumerAddress+`"]}`))
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return string(text)
	}
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(exists(), ":false"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after the stop: %s", exists())
		}
	}
	ask("enter", `{"room":"lobby"}`, &page)
	if !strings.Contains(exists(), ":true") {
		t.Errorf("the channel after the stop: %s", exists())
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
