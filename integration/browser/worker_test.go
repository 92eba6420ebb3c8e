//go:build browser && unix

package browser

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestAPageReadsBesideAServiceWorker runs the worker of docs/recipes/service-worker.md.
func TestAPageReadsBesideAServiceWorker(t *testing.T) {
	browser := startBrowser(t, findChromium(t))
	recipe, err := os.ReadFile("../../docs/recipes/service-worker.md")
	if err != nil {
		t.Fatal(err)
	}
	worker := regexp.MustCompile("(?s)\n```js\n(.*?)\n```\n").FindSubmatch(recipe)
	if worker == nil {
		t.Fatal("the recipe has no worker")
	}
	server := testserver.New(t)
	for name, text := range map[string][]byte{"index.html": []byte("<!doctype html><html lang=\"en\"><title>page</title>"), "sw.js": worker[1]} {
		if err := os.WriteFile(filepath.Join(server.Dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", testserver.FreePort(t)) // browsers trust it as they trust HTTPS
	server.Start("", fmt.Sprintf(`%s {
	bind 127.0.0.1
	megaphone read
	root %s
	file_server
}
http:// {
	bind unix/%s
	megaphone create write
}`, url, server.Dir, server.Socket("backend")))
	backend := backend{t, testserver.UnixClient(t, server.Socket("backend"))}
	channel := backend.create()

	page := browser.show(url+"/", views[0])
	page.await("the page is there", `document.title === "page"`)
	page.run(`navigator.serviceWorker.register("/sw.js")`)
	page.await("the worker controls the page", `navigator.serviceWorker.controller?.state === "activated"`)
	page.run(fmt.Sprintf(`window.bodies = [];
new EventSource("/read/%s").onmessage = (event) => bodies.push(JSON.parse(event.data).body);
fetch("/index.html").then(async () => { window.cached = Boolean(await caches.match("/index.html")); })`, channel.ConsumerAddress))
	page.await("the worker answers other requests", "window.cached")
	for n := range 3 {
		backend.write(channel.ProducerAddress, n)
		page.await("the message has arrived", fmt.Sprintf("bodies.length === %d", n+1))
	}
	page.wantNoFaults()
}
