//go:build browser && unix

package browser

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A browser is a headless Chromium. The test controls it with the DevTools protocol
// (https://chromedevtools.github.io/devtools-protocol/) through two pipes. If the test process dies, the pipes close
// and the browser ends too.
type browser struct {
	tb testing.TB
	to io.Writer

	mu      sync.Mutex
	last    int
	replies map[int]chan reply
}

// A reply is the browser's answer to a command.
type reply struct {
	ID     int
	Result json.RawMessage
	Error  *struct{ Message string }
}

// patience is how long a command may take.
const patience = 30 * time.Second

// findChromium returns the path of the browser. Without a browser it skips the test, or fails it if the environment has
// MEGAPHONE_REQUIRE_BROWSER. The environment variable CHROMIUM can name a browser in an unusual place.
func findChromium(tb testing.TB) string {
	tb.Helper()
	names := []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}
	if name := os.Getenv("CHROMIUM"); name != "" {
		names = []string{name}
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const missing = "Chromium is missing: install it (Debian: apt-get install chromium), or set CHROMIUM to its path"
	if os.Getenv("MEGAPHONE_REQUIRE_BROWSER") != "" {
		tb.Fatal(missing)
	}
	tb.Skip("SKIPPED: " + missing)
	return ""
}

// startBrowser runs the browser until the test ends.
func startBrowser(tb testing.TB, path string, flags ...string) *browser {
	tb.Helper()
	commands, to, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	from, events, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	profile, err := os.MkdirTemp("", "mpbrowser") //nolint:usetesting // the browser still writes when it is killed
	if err != nil {
		tb.Fatal(err)
	}
	log, err := os.Create(filepath.Join(profile, "log"))
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(path, append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
		"--disable-background-timer-throttling", "--disable-renderer-backgrounding",
		"--log-level=3", "--remote-debugging-pipe", "--user-data-dir=" + profile,
	}, flags...)...)
	cmd.ExtraFiles = []*os.File{commands, events} // file descriptors 3 and 4, as --remote-debugging-pipe needs
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "HOME="+profile)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that the test can kill its helper processes with it
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	commands.Close()
	events.Close()
	b := &browser{tb: tb, to: to, replies: map[int]chan reply{}}
	var listening sync.WaitGroup
	listening.Go(func() { b.listen(from) })
	tb.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		to.Close()
		listening.Wait()
		from.Close()
		log.Close()
		if tb.Failed() {
			text, _ := os.ReadFile(log.Name())
			tb.Logf("what the browser said:\n%s", text)
		}
		if err := os.RemoveAll(profile); err != nil {
			tb.Log(err)
		}
	})
	return b
}

// listen passes on the browser's replies until the browser ends.
func (b *browser) listen(from io.Reader) {
	for messages := bufio.NewReader(from); ; {
		text, err := messages.ReadBytes(0)
		if err != nil {
			return
		}
		var r reply
		if err := json.Unmarshal(text[:len(text)-1], &r); err != nil {
			b.tb.Errorf("the browser said %q: %v", text, err)
			return
		}
		b.mu.Lock()
		waiting := b.replies[r.ID] // nil for events, which have no id
		delete(b.replies, r.ID)
		b.mu.Unlock()
		if waiting != nil {
			waiting <- r
		}
	}
}

// call sends a command and decodes its result. If session is not empty, the command goes to the page of that session.
func (b *browser) call(session, method string, params, result any) error {
	waiting := make(chan reply, 1)
	b.mu.Lock()
	b.last++
	id := b.last
	b.replies[id] = waiting
	b.mu.Unlock()
	command, err := json.Marshal(struct {
		ID        int    `json:"id"`
		SessionID string `json:"sessionId,omitempty"`
		Method    string `json:"method"`
		Params    any    `json:"params,omitempty"`
	}{id, session, method, params})
	if err != nil {
		return err
	}
	b.mu.Lock()
	_, err = b.to.Write(append(command, 0))
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	select {
	case r := <-waiting:
		if r.Error != nil {
			return fmt.Errorf("%s: %s", method, r.Error.Message)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(r.Result, result)
	case <-time.After(patience):
		return fmt.Errorf("%s: no answer from the browser", method)
	}
}

// A page is a tab of the browser.
type page struct {
	browser *browser
	session string
}

// open opens a page. It returns when the page has loaded.
func (b *browser) open(url string) *page {
	b.tb.Helper()
	var target struct{ TargetID string }
	if err := b.call("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target); err != nil {
		b.tb.Fatal(err)
	}
	var attached struct{ SessionID string }
	if err := b.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached); err != nil {
		b.tb.Fatal(err)
	}
	p := &page{b, attached.SessionID}
	if err := b.call(p.session, "Network.enable", nil, nil); err != nil {
		b.tb.Fatal(err)
	}
	var navigated struct{ ErrorText string }
	if err := b.call(p.session, "Page.navigate", map[string]any{"url": url}, &navigated); err != nil || navigated.ErrorText != "" {
		b.tb.Fatalf("%s: %v %s", url, err, navigated.ErrorText)
	}
	for loaded, deadline := false, time.Now().Add(patience); !loaded; time.Sleep(10 * time.Millisecond) {
		if err := p.evaluate(`document.readyState === "complete"`, &loaded); err != nil || time.Now().After(deadline) {
			b.tb.Fatalf("%s is not loaded: %v", url, err)
		}
	}
	return p
}

// kill ends what is of this type, such as a shared_worker, and tells nobody.
func (b *browser) kill(kind string) {
	b.tb.Helper()
	var targets struct {
		TargetInfos []struct{ TargetID, Type string }
	}
	if err := b.call("", "Target.getTargets", map[string]any{"filter": []any{map[string]any{}}}, &targets); err != nil {
		b.tb.Fatal(err)
	}
	killed := 0
	for _, target := range targets.TargetInfos {
		if target.Type == kind {
			killed++
			if err := b.call("", "Target.closeTarget", map[string]any{"targetId": target.TargetID}, nil); err != nil {
				b.tb.Fatal(err)
			}
		}
	}
	if killed != 1 {
		b.tb.Fatalf("%d of the type %s: %v", killed, kind, targets)
	}
}

// evaluate runs a JavaScript expression in the page and decodes its value.
func (p *page) evaluate(expression string, value any) error {
	var evaluated struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	err := p.browser.call(p.session, "Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &evaluated)
	switch {
	case err != nil:
		return err
	case evaluated.ExceptionDetails != nil:
		return fmt.Errorf("%s: %s", evaluated.ExceptionDetails.Text, evaluated.ExceptionDetails.Exception.Description)
	case evaluated.Result.Value == nil:
		return errors.New("the expression has no value")
	}
	return json.Unmarshal(evaluated.Result.Value, value)
}

// setOffline takes the page offline, or online again.
func (p *page) setOffline(offline bool) error {
	return p.browser.call(p.session, "Network.emulateNetworkConditions", map[string]any{
		"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1,
	}, nil)
}
