//go:build browser

package browser

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	chat "github.com/caddy-megaphone/megaphone/demo/backend"
	"github.com/caddy-megaphone/megaphone/demo/control"
	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestTheChat has two browsers chat while the test restarts everything below them. Both sides show each message once
// and in the same order.
func TestTheChat(t *testing.T) {
	chromium := findChromium(t)
	demo := startDemo(t)
	ann := demo.enter("Ann Lee", startBrowser(t, chromium, "--ignore-certificate-errors"))
	bob := demo.enter("Bob", startBrowser(t, chromium, "--ignore-certificate-errors"))
	said := []string{}
	say := func(who *page, text string) {
		t.Helper()
		who.enter("#text", text)
		said = append(said, text)
	}
	settled := func(when string) {
		t.Helper()
		for _, p := range []*page{ann, bob} {
			p.await("all is shown "+when, fmt.Sprintf("%s.length >= %d", texts, len(said)))
			p.await("all is sent "+when, `!document.querySelector("#unsent li")`)
			p.await("the page is live "+when, `document.querySelector("#state").innerText === "live"`)
		}
		a, b := ann.list(texts), bob.list(texts)
		if !slices.Equal(a, b) {
			t.Fatalf("%s Ann sees %q, and Bob %q", when, a, b)
		}
		if got, want := slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(said)); !slices.Equal(got, want) {
			t.Fatalf("%s there are %q, want %q", when, got, want)
		}
	}

	for i := range 5 {
		say(ann, fmt.Sprintf("Ann's %d", i))
		say(bob, fmt.Sprintf("Bob's %d", i))
	}
	settled("at first")
	ann.await("Bob is there", `[...document.querySelectorAll("#people li")].some((li) => li.innerText.includes("Bob"))`)
	bob.run(`document.querySelector("#text").focus()`)
	bob.do("Input.insertText", map[string]any{"text": "hm"})
	ann.await("Bob types", `document.querySelector("#typing").innerText === "Bob is typing …"`)
	bob.run(`document.querySelector("#text").value = ""`)

	// Reload Caddy. Streams of the old configuration end within 20 seconds.
	if err := demo.Reload(); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		say(ann, fmt.Sprintf("during the reload %d", i))
		say(bob, fmt.Sprintf("Bob, during the reload %d", i))
		time.Sleep(200 * time.Millisecond)
	}
	for _, p := range []*page{ann, bob} {
		p.await("the page has come back after the reload", `[...document.querySelectorAll("#log li")].some((li) => li.textContent.includes("new configuration"))`)
	}
	settled("after the reload")

	// Restart the backend.
	demo.stopBackend()
	say(ann, "while the backend was away")
	say(bob, "me too")
	ann.await("a message is on its way", `document.querySelector("#unsent li")`)
	ann.do("Page.reload", nil)
	ann.await("the message is still on its way after a reload of the page", `document.querySelector("#unsent li")`)
	demo.startBackend()
	say(ann, "once it was back")
	settled("after the backend's restart")

	// Take the network down.
	demo.offline(true, ann, bob)
	ann.await("Ann's page knows", `document.querySelector("#state").innerText === "offline"`)
	say(ann, "offline")
	say(bob, "offline too")
	time.Sleep(2 * time.Second)
	demo.offline(false, ann, bob)
	say(bob, "online")
	settled("after the offline period")
	if demo.network.broken() == 0 {
		t.Error("the network broke no connection")
	}

	// Ann goes to another room and back, while her page still asks for a channel there. She sees everything as before.
	ann.run(`const { fetch } = window;
		window.fetch = async (...request) => {
			if (request[0] === "/api/enter") {
				window.fetch = fetch;
				await new Promise((done) => setTimeout(done, 500));
			}
			return fetch(...request);
		};
		location.hash = "#kitchen";
		setTimeout(() => (location.hash = "#lobby"), 200)`)
	ann.await("Ann is in the other room", `document.querySelector("#room").innerText === "# kitchen"`)
	settled("after a look into another room")

	// Cleo comes later and gets the history.
	cleo := demo.enter("Cleo", ann.browser)
	cleo.await("Cleo sees all", fmt.Sprintf("%s.length === %d", texts, len(said)))
	if got := cleo.list(texts); !slices.Equal(got, ann.list(texts)) {
		t.Errorf("Cleo sees %q", got)
	}
	cleo.run(`location.hash = "#kitchen"`)
	cleo.await("the kitchen is empty", `!document.querySelector("#empty").hidden`)
	cleo.enter("#room-name", "A room of one's own")
	cleo.await("there is another room", `document.querySelector("#room").innerText === "# a-room-of-one-s-own" && !document.querySelector("#empty").hidden`)

	// The page gives back a message that the backend will never accept. This does not stop the next message.
	cleo.run(`document.querySelector("#text").maxLength = 20000`)
	cleo.enter("#text", strings.Repeat("long ", 4000))
	cleo.await("the page has given it back", `document.querySelector("#text").value.length > 10000 && !document.querySelector("#unsent li")`)
	cleo.run(`document.querySelector("#text").value = ""`)
	cleo.enter("#text", "short")
	cleo.await("the next one is sent", texts+`[0] === "short"`)
	cleo.wantNoFaults()

	// Restart Caddy itself, so that its channels and topics are gone, and a message that it had accepted.
	ann.run(`const { fetch } = window;
		window.fetch = async (...request) => {
			if (request[0] !== "/api/say") {
				return fetch(...request);
			}
			window.fetch = fetch;
			return new Response("null");
		}`)
	say(ann, "accepted, and lost with Caddy")
	ann.await("the message is accepted", `sessionStorage.outbox === "[]" && document.querySelector("#unsent li")`)
	demo.server.Stop()
	say(ann, "while Caddy was away")
	say(bob, "this one, too")
	demo.startCaddy()
	settled("after the restart of Caddy")
	for _, p := range []*page{ann, bob} {
		p.await("the page has a new channel", `[...document.querySelectorAll("#log li")].some((li) => li.textContent.includes("the channel is gone"))`)
	}
	say(bob, "by the new channel")
	settled("at last")
	ann.wantNoFaults()
	bob.wantNoFaults()
	conversation(t, ann, bob)
}

// texts is a script that returns the messages that a page shows.
const texts = `[...document.querySelectorAll("#messages .text")].map((e) => e.innerText)`

// conversation makes pictures of a room where people talk.
func conversation(t *testing.T, ann, bob *page) {
	t.Helper()
	for _, p := range []*page{ann, bob} {
		p.run(`location.hash = "#workshop"`)
	}
	for i, text := range []string{
		"Is the new release out?", "Just now. I reloaded Caddy while we were talking.",
		"I saw the connection move, and nothing else.", "That is the idea.",
		"So the backend only does POSTs?", "Two of them: create, and publish. The page reads its channel from Caddy, under the same origin.",
	} {
		who := []*page{bob, ann}[i%2]
		who.enter("#text", text)
		for _, p := range []*page{ann, bob} {
			p.await("the message is shown", fmt.Sprintf("%s.length === %d", texts, i+1))
		}
	}
	bob.run(`document.querySelector("#text").focus()`)
	bob.do("Input.insertText", map[string]any{"text": "So"})
	ann.await("Bob types", `document.querySelector("#typing").innerText`)
	ann.pictures(t, "demo")
}

// A demo has the parts that `go run ./demo` runs. A test can restart them separately.
type demo struct {
	t       *testing.T
	server  *testserver.Server
	network *network // between browsers and Caddy

	root, megaphone, address string
	port                     int
	stopBackend              func()
}

func startDemo(t *testing.T) *demo {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	local := func() string { return fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(t)) }
	d := &demo{
		t: t, server: testserver.New(t), root: root, megaphone: local(), address: local(),
		port: testserver.FreePort(t),
	}
	d.startCaddy()
	d.startBackend()
	t.Cleanup(func() { d.stopBackend() })
	d.network = newNetwork(t, fmt.Sprintf("127.0.0.1:%d", d.port))
	return d
}

// env returns the environment variables that the Caddyfile uses.
func (d *demo) env() []string {
	return []string{
		"DEMO_ADMIN=unix/" + d.server.Socket("admin"), fmt.Sprintf("DEMO_PORT=%d", d.port), "DEMO_MEGAPHONE=" + d.megaphone,
		"DEMO_BACKEND=" + d.address, "DEMO_ROOT=" + d.root,
	}
}

func (d *demo) startCaddy() {
	d.t.Helper()
	caddyfile, err := os.ReadFile(filepath.Join(d.root, "demo", "Caddyfile"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.server.StartFile(string(caddyfile), d.env()...)
	awaitCertificate(d.t, d.server, "localhost", d.port)
}

// Reload, Stop and Start are for the page's buttons.
func (d *demo) Reload() error {
	cmd := d.server.Command("reload", "--force", "--config", filepath.Join(d.root, "demo", "Caddyfile"), "--adapter", "caddyfile")
	cmd.Env = append(cmd.Env, d.env()...)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("caddy reload: %w\n%s", err, output)
	}
	return nil
}

func (d *demo) Stop() error {
	d.server.Stop()
	return nil
}

func (d *demo) Start() error {
	d.startCaddy()
	return nil
}

func (d *demo) startBackend() {
	d.t.Helper()
	listener, err := net.Listen("tcp", d.address)
	if err != nil {
		d.t.Fatal(err)
	}
	buttons := control.New(d, "http://"+d.megaphone+"/ui/", false)
	buttons.Pause = 2 * time.Second
	mux := http.NewServeMux()
	mux.Handle("/api/", chat.New("http://"+d.megaphone))
	mux.Handle("/demo/", buttons)
	server := &http.Server{Handler: mux}
	go server.Serve(listener)
	d.stopBackend = func() { server.Close() }
}

// enter opens the chat and sets a name.
func (d *demo) enter(name string, browser *browser) *page {
	d.t.Helper()
	_, port, _ := net.SplitHostPort(d.network.address())
	p := browser.show("https://localhost:"+port+"/", views[0])
	p.await("the page is live", `document.querySelector("#state")?.innerText === "live"`)
	p.run(fmt.Sprintf(`const field = document.querySelector("#name"); field.value = %q; field.dispatchEvent(new Event("change"))`, name))
	p.await("the name is known", fmt.Sprintf(`document.querySelector("#people").innerText.includes(%q)`, name))
	return p
}

// offline takes the network down for pages, or brings it up again.
func (d *demo) offline(offline bool, pages ...*page) {
	d.t.Helper()
	d.network.setDown(offline)
	for _, p := range pages {
		if err := p.setOffline(offline); err != nil {
			d.t.Fatal(err)
		}
	}
}
