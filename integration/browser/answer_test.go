//go:build browser

package browser

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	answers "github.com/caddy-megaphone/megaphone/demo/answer/backend"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestTheAnswer reloads a page in the middle of an answer, and opens it in a second tab. Both show the whole answer, and so
// does a page whose network is away until its channel has expired. A model that is stopped leaves an answer that is marked as
// incomplete.
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
	server.StartFile(strings.Replace(string(caddyfile), "ttl 1m", "ttl 1s", 1), "ANSWER_ADMIN=unix/"+server.Socket("admin"), fmt.Sprintf("ANSWER_PORT=%d", port),
		"ANSWER_MEGAPHONE="+inside, "ANSWER_BACKEND="+backend.Listener.Addr().String(), "ANSWER_ROOT="+root)
	awaitCertificate(t, server, "localhost", port)
	network := newNetwork(t, fmt.Sprintf("127.0.0.1:%d", port))
	_, through, _ := net.SplitHostPort(network.address())
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
	p := browser.show("https://localhost:"+through+"/", views[0])
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
	complete := func(each *page) {
		t.Helper()
		each.await("the answer is complete", `document.querySelector("#shown")?.dataset.state === "done"`)
		var got struct{ Text, Question string }
		if err := each.evaluate(`({text: `+text+`, question: document.querySelector("#asked").textContent})`, &got); err != nil {
			t.Fatal(err)
		}
		if got.Text != want.String() || got.Question != "Why?" {
			t.Errorf("the page shows %+v", got)
		}
	}
	complete(p)
	complete(second)
	second.wantNoFaults()

	ask(seconds)
	network.setDown(true)
	var topic string
	if err := p.evaluate("location.hash.slice(1)", &topic); err != nil {
		t.Fatal(err)
	}
	server.Await("the channel has expired", func() bool {
		response, err := http.Get("http://" + inside + "/topic/" + topic)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return strings.Contains(string(text), `"members":0`)
	})
	network.setDown(false)
	complete(p)
	p.await("it has another channel", `document.querySelector("#figures").textContent.includes("channel number 2")`)
	p.run("faults = []") // of requests without a network
	p.do("Page.bringToFront", nil)
	p.pictures(t, "answer")
	p.wantNoBarriers(t, "the answer", allViews)
	p.look(views[0])

	ask(60)
	p.click("#kill")
	p.await("the page knows", state+` === "aborted"`)
	p.do("Page.reload", nil)
	p.await("the page knows after a reload", `document.querySelector("#shown")?.dataset.state === "aborted" && `+text+`.length > 100`)
	p.wantNoFaults()
	const unknown = "#answer-ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	second.run(`location.hash = "` + unknown + `"`)
	second.await("there is no such answer", state+` === "unknown"`)

	p.run(`location.hash = ""`)
	p.await("it shows no answer", `document.querySelector("#shown").hidden`)
	p.run(`{
		const real = fetch;
		window.fetch = async (url, options) => {
			const reply = await real(url, options);
			if (options?.body?.includes("` + unknown[1:] + `")) {
				await new Promise((resolve) => { window.late = resolve; });
			}
			return reply;
		};
		location.hash = "` + unknown + `";
	}`)
	p.await("the backend has replied", `window.late`)
	p.run(`location.hash = "#` + topic + `"`)
	p.await("the page shows another answer", text+`.length > 100`)
	p.run(`late()`)
	complete(p) // the late reply changes nothing
}
