//go:build browser

package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	answers "github.com/caddy-megaphone/megaphone/demo/answer/backend"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestTheAnswer reloads a page in the middle of an answer, and opens it in a second tab. Both show the whole answer. A model
// that is stopped leaves an answer that is marked as incomplete.
func TestTheAnswer(t *testing.T) {
	chromium := findChromium(t)
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	caddyfile, err := os.ReadFile(filepath.Join(root, "demo", "answer", "Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	inside := fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(t))
	backend := httptest.NewServer(http.Handler(answers.New("http://" + inside)))
	defer backend.Close()
	server, port := testserver.New(t), testserver.FreePort(t)
	server.StartFile(string(caddyfile), "ANSWER_ADMIN=unix/"+server.Socket("admin"), fmt.Sprintf("ANSWER_PORT=%d", port),
		"ANSWER_MEGAPHONE="+inside, "ANSWER_BACKEND="+backend.Listener.Addr().String(), "ANSWER_ROOT="+root)
	awaitCertificate(t, server, "localhost", port)
	browser := startBrowser(t, chromium, "--ignore-certificate-errors")

	const (
		seconds = 4
		text    = `document.querySelector("#text").textContent`
		state   = `document.querySelector("#shown").dataset.state`
	)
	var want strings.Builder
	for piece := range answers.Answer("Why?", seconds) {
		want.WriteString(piece)
	}
	p := browser.show(fmt.Sprintf("https://localhost:%d/", port), views[0])
	ask := func(seconds int) {
		p.await("there is a form", `document.querySelector("#ask")?.onsubmit`)
		p.run(fmt.Sprintf(`document.querySelector("#question").value = "Why?"; document.querySelector("#seconds option").value = "%d"; document.querySelector("#seconds").selectedIndex = 0`, seconds))
		p.click("#ask button")
		p.await("the answer comes", state+` === "writing" && `+text+`.length > 100`)
	}
	ask(seconds)
	var url string
	if err := p.evaluate("location.href", &url); err != nil {
		t.Fatal(err)
	}
	p.do("Page.reload", nil)
	second := browser.show(url, views[2])
	for _, each := range []*page{p, second} {
		each.await("the answer is complete", `document.querySelector("#shown")?.dataset.state === "done"`)
		var got struct{ Text, Question string }
		if err := each.evaluate(`({text: `+text+`, question: document.querySelector("#asked").innerText})`, &got); err != nil {
			t.Fatal(err)
		}
		if got.Text != want.String() || got.Question != "Why?" {
			t.Errorf("the page shows %+v", got)
		}
		each.wantNoFaults()
	}
	p.do("Page.bringToFront", nil)
	p.pictures(t, "answer")
	p.look(views[0])

	ask(60)
	p.click("#kill")
	p.await("the page knows", state+` === "aborted"`)
	p.do("Page.reload", nil)
	p.await("the page knows after a reload", `document.querySelector("#shown")?.dataset.state === "aborted" && `+text+`.length > 100`)
	p.wantNoFaults()
	second.run(`location.hash = "#answer-ABCDEFGHIJKLMNOPQRSTUVWXYZ"`)
	second.await("there is no such answer", state+` === "unknown"`)
}
