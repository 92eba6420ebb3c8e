//go:build browser && unix

package browser

import (
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// A clientSite serves pages that use the JavaScript client, as a single-page app does: paths that it does not know get
// its page.
type clientSite struct {
	url     string
	server  *testserver.Server
	backend backend
}

// startClientSite serves files, and the client below /client/. There, /channel is the consumer address of a channel.
func startClientSite(t *testing.T, files map[string]string) (clientSite, channel) {
	t.Helper()
	server := testserver.New(t)
	root := filepath.Join(server.Dir, "site")
	if err := os.CopyFS(filepath.Join(root, "client"), os.DirFS("../../client/js/dist")); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", testserver.FreePort(t)) // browsers trust it as they trust HTTPS
	server.Start("", fmt.Sprintf(`%s {
	bind 127.0.0.1
	handle /read/* {
		megaphone read
	}
	handle {
		root %s
		try_files {path} /index.html
		file_server
	}
}
http:// {
	bind unix/%s
	megaphone create write manage
}`, url, root, server.Socket("backend")))
	site := clientSite{url, server, backend{t, testserver.UnixClient(t, server.Socket("backend"))}}
	c := site.backend.create()
	if err := os.WriteFile(filepath.Join(root, "channel"), fmt.Appendf(nil, `{"consumerAddress":%q}`, c.ConsumerAddress), 0o600); err != nil {
		t.Fatal(err)
	}
	return site, c
}

// importMap lets pages import the client as bundled pages do.
const importMap = `<!doctype html><html lang="en"><title>page</title><script type="importmap">{"imports": {
"@caddy-megaphone/client": "/client/megaphone.js", "@caddy-megaphone/client/shared": "/client/shared.js"}}</script>`

// TestTabsShareAConnection runs the worker and the page of docs/frameworks.md in several tabs.
func TestTabsShareAConnection(t *testing.T) {
	browser := startBrowser(t, findChromium(t))
	text, err := os.ReadFile("../../docs/frameworks.md")
	if err != nil {
		t.Fatal(err)
	}
	example := func(first string) string {
		_, code, found := strings.Cut(string(text), "```js\n"+first+"\n")
		code, _, _ = strings.Cut(code, "\n```\n")
		if !found {
			t.Fatalf("docs/frameworks.md has no example that begins with %s", first)
		}
		return code
	}
	channel := func(code string) string { // a file is the backend here
		return strings.NewReplacer(`{ method: "POST" }`, "{}").Replace(code)
	}
	// Workers have no import map.
	worker := strings.NewReplacer("@caddy-megaphone/client/shared", "/client/shared.js", "@caddy-megaphone/client", "/client/megaphone.js").
		Replace(channel(example("// worker.js")))
	script := strings.Replace(channel(example("// In the page.")), "console.log(body)", "bodies.push(body)", 1)
	script = strings.ReplaceAll(strings.ReplaceAll(script, `"news"`, `"numbers"`), "import.meta.url", "location.href")
	script = strings.Replace(script, `() => new Megaphone(`, `() => (window.alone = true) && new Megaphone(`, 1)
	html := importMap + "<script>window.bodies = []</script><script type=module>" + script + "\nwindow.megaphone = megaphone;</script>"
	alone := strings.Replace(html, "window.bodies = []", "window.bodies = []; delete window.SharedWorker", 1)
	site, c := startClientSite(t, map[string]string{"index.html": html, "worker.js": worker, "alone.html": alone})

	first := browser.show(site.url+"/", views[0])
	second := browser.show(site.url+"/", views[0])
	for _, tab := range []*page{first, second} {
		tab.await("it is open", `window.megaphone?.state === "open"`)
	}
	for n := range 3 {
		site.backend.write(c.ProducerAddress, n)
	}
	for _, tab := range []*page{first, second} {
		tab.await("the tab has all messages, from the worker", `String(bodies) === "0,1,2" && !window.alone`)
		tab.wantNoFaults()
	}
	// When the first tab leaves for another page, the second one reads on.
	first.do("Page.navigate", map[string]any{"url": "about:blank"})
	site.backend.write(c.ProducerAddress, 3)
	second.await("the other tab has the message", `String(bodies) === "0,1,2,3"`)

	// A browser without shared workers. This tab takes the channel over from the worker, as both have the same one here.
	second.run("megaphone.close()")
	third := browser.show(site.url+"/alone.html", views[0])
	third.await("it is open", `window.megaphone?.state === "open" && window.alone`)
	site.backend.write(c.ProducerAddress, 4)
	third.await("it has the message", `bodies.includes(4)`)
	third.wantNoFaults()
}

// TestTabsNoticeADeadWorker: they start it again, and once that is of no use, each reads by itself.
func TestTabsNoticeADeadWorker(t *testing.T) {
	browser := startBrowser(t, findChromium(t))
	const client = `new Megaphone(location.origin, async () => (await fetch("/channel")).json(), { backoff: [100, 200] })`
	worker := `import { Megaphone } from "/client/megaphone.js";
import { share } from "/client/shared.js";
share(() => ` + client + `);`
	html := importMap + `<script type=module>
import { Megaphone } from "@caddy-megaphone/client";
import { connect } from "@caddy-megaphone/client/shared";
window.bodies = [];
window.gaps = 0;
window.megaphone = connect(
  () => new SharedWorker("/worker.js", { type: "module" }),
  () => (window.alone = true) && ` + client + `);
megaphone.on("gap", () => gaps++);
megaphone.on("error", () => {});
megaphone.subscribe("numbers", ({ body }) => bodies.push(body));
</script>`
	site, c := startClientSite(t, map[string]string{"index.html": html, "worker.js": worker})
	tabs := []*page{browser.show(site.url+"/", views[0]), browser.show(site.url+"/", views[0])}
	for _, tab := range tabs {
		tab.await("it is open", `window.megaphone?.state === "open"`)
	}

	browser.kill("shared_worker")
	for _, tab := range tabs {
		tab.await("it has noticed, and reads on with another worker", `gaps > 0 && megaphone.state === "open" && !window.alone`)
	}
	site.backend.write(c.ProducerAddress, 1)
	for _, tab := range tabs {
		tab.await("it has the message", `bodies.includes(1)`)
	}

	browser.kill("shared_worker") // soon after the last time
	for _, tab := range tabs {
		tab.await("it reads by itself", `window.alone && gaps > 1`)
		tab.wantNoFaults()
	}
	tabs[1].run("megaphone.close()") // here both have the same channel
	tabs[0].await("it is open", `megaphone.state === "open"`)
	site.backend.write(c.ProducerAddress, 2)
	tabs[0].await("it has the message", `bodies.includes(2)`)
}

// TestAPageLoadsTheClientByItsHash runs the README's way to use the client without a build step.
func TestAPageLoadsTheClientByItsHash(t *testing.T) {
	browser := startBrowser(t, findChromium(t))
	code, err := os.ReadFile("../../client/js/dist/megaphone.js")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../client/js/README.md")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum384(code)
	hash := "sha384-" + base64.StdEncoding.EncodeToString(sum[:])
	_, rest, _ := strings.Cut(string(readme), "```html\n")
	html, _, found := strings.Cut(rest, "\n```\n")
	if !found || !strings.Contains(html, hash) {
		t.Fatalf("the README has no page with the hash %s: run npm run build in client/js", hash)
	}
	const used = "\n  window.loaded = Megaphone;\n</script>"
	html = strings.Replace(html[:strings.LastIndex(html, "</script>")]+used, "https://cdn.jsdelivr.net/npm/@caddy-megaphone/client@", "/", 2)
	html = `<!doctype html><html lang="en"><title>page</title>` + html
	// The README's address, without the CDN's host, is a folder of the site.
	_, path, _ := strings.Cut(html, `"megaphone": "`)
	path, _, _ = strings.Cut(path, `"`)
	folder := strings.TrimSuffix(path, "megaphone.js")
	html = strings.ReplaceAll(html, folder, "/client/")
	site, _ := startClientSite(t, map[string]string{
		"index.html": html,
		"wrong.html": strings.Replace(html, hash, "sha384-"+strings.Repeat("A", 64), 1),
	})
	right := browser.show(site.url+"/", views[0])
	right.await("the client is loaded", `typeof window.loaded === "function"`)
	right.wantNoFaults()
	wrong := browser.show(site.url+"/wrong.html", views[0])
	wrong.await("the page is there", `document.readyState === "complete"`)
	wrong.await("the browser refuses the client", `typeof window.loaded === "undefined" && faults.length > 0`)
}

// TestTheClientSaysThatABaseURLIsWrong uses a site that answers every path with its page.
func TestTheClientSaysThatABaseURLIsWrong(t *testing.T) {
	browser := startBrowser(t, findChromium(t))
	html := importMap + `<script type=module>
import { Megaphone } from "@caddy-megaphone/client";
window.states = [];
window.errors = [];
const transports = new URLSearchParams(location.search).get("transports")?.split(",");
const megaphone = new Megaphone("/wrong/", async () => (await fetch("/channel")).json(), transports ? { transports } : {});
megaphone.on("state", (state) => states.push(state));
megaphone.on("error", (error) => errors.push(error.code + ": " + error.message));
megaphone.subscribe("numbers", () => {});
</script>`
	site, c := startClientSite(t, map[string]string{"index.html": html})
	for _, query := range []string{"", "?transports=websocket", "?transports=sse", "?transports=ndjson", "?transports=poll"} {
		page := browser.show(site.url+"/"+query, views[0])
		page.await("it reports an error", "window.errors?.length > 0")
		var first string
		var open bool
		if err := page.evaluate("errors[0]", &first); err != nil {
			t.Fatal(err)
		}
		if err := page.evaluate(`states.includes("open")`, &open); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(first, "HTTP: ") || !strings.Contains(first, "text/html") || !strings.Contains(first, "/wrong/read/") || strings.Contains(first, c.ConsumerAddress) {
			t.Errorf("%s: the error is %s", query, first)
		}
		if open {
			t.Errorf("%s: the client says open", query)
		}
	}
}
