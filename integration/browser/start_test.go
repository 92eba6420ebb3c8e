//go:build browser && unix

package browser

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestTheFirstPage opens the page of docs/start.md in two windows, with each of its backends. A test of package
// integration compares the files with the docs.
func TestTheFirstPage(t *testing.T) {
	chromium := findChromium(t)
	for program, file := range map[string]string{"python3": "backend.py", "node": "backend.mjs"} {
		t.Run(program, func(t *testing.T) {
			if _, err := exec.LookPath(program); err != nil {
				t.Skipf("SKIPPED: %s is not installed", program)
			}
			testFirstPage(t, chromium, program, file)
		})
	}
}

func testFirstPage(t *testing.T, chromium, program, file string) {
	server := testserver.New(t)
	ports := map[string]string{}
	var pairs []string
	for _, port := range []string{"8080", "8000", "3000"} {
		ports[port] = strconv.Itoa(testserver.FreePort(t))
		pairs = append(pairs, port, ports[port])
	}
	texts := map[string]string{}
	for _, name := range []string{"Caddyfile", "page.html", file} {
		text, err := os.ReadFile("../../examples/start/" + name)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = strings.NewReplacer(pairs...).Replace(string(text))
		if err := os.WriteFile(filepath.Join(server.Dir, name), []byte(texts[name]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := fmt.Sprintf("{\n\tadmin unix/%s\n}\n%s", server.Socket("admin"), texts["Caddyfile"])
	server.StartFile(config)
	runProgram(t, server, "127.0.0.1:"+ports["8000"], program, filepath.Join(server.Dir, file))

	browser := startBrowser(t, chromium)
	const text = `document.querySelector("pre").textContent`
	url := "http://localhost:" + ports["8080"] + "/"
	ann, bob := browser.show(url, views[0]), browser.show(url, views[0])
	pages := []*page{ann, bob}
	for _, p := range pages {
		p.await("it is welcome", "document.querySelector('pre') && "+text+` === "Welcome\n"`)
	}
	ann.enter("input", "Hello, <b>Bob</b>")
	for _, p := range pages {
		p.await("it has what Ann says", text+` === "Welcome\nHello, <b>Bob</b>\n"`)
	}
	ann.await("the input is empty again", `document.querySelector("input").value === ""`)

	// Restart Caddy: the channels are gone with its memory, and the pages ask for new ones.
	server.Stop()
	server.StartFile(config)
	for _, p := range pages {
		p.await("it has a new channel", text+`.split("Welcome").length === 3`)
	}
	bob.enter("input", "Back again")
	for _, p := range pages {
		p.await("it has what Bob says", text+` === "Welcome\nHello, <b>Bob</b>\nWelcome\nBack again\n"`)
		for _, fault := range p.list("faults") {
			t.Error(fault)
		}
	}

	// Events with names, as the page shows them.
	docs, err := os.ReadFile("../../docs/start.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(docs), "## Events with names")
	_, rest, opened := strings.Cut(rest, "```js\n")
	code, _, closed := strings.Cut(rest, "```\n")
	if !found || !opened || !closed {
		t.Fatal("docs/start.md has no code with named events")
	}
	code = strings.Replace(code, "console.log(JSON", "named.push(JSON", 1)
	ann.run(`window.named = []; (async () => { const address = await (await fetch("/channel", { method: "POST" })).text();` +
		code + `events.onmessage = () => named.push("onmessage"); })()`)
	ann.await("the listener has the event", `named.length > 0`)
	if got := ann.list("named"); len(got) != 1 || got[0] != "Welcome" {
		t.Errorf("named events: %q", got)
	}
	testFirstPageWithClient(t, ann, string(docs))
}

// testFirstPageWithClient reads with the JavaScript client, and the function for it that the page of docs names.
func testFirstPageWithClient(t *testing.T, p *page, docs string) {
	_, rest, found := strings.Cut(docs, "so give it the function `")
	function, _, closed := strings.Cut(rest, "`")
	if !found || !closed {
		t.Fatal("docs/start.md has no function for the JavaScript client")
	}
	code, err := os.ReadFile("../../client/js/dist/megaphone.js")
	if err != nil {
		t.Fatal(err)
	}
	p.run(fmt.Sprintf(`window.bodies = []; import("data:text/javascript;base64,%s").then(({ Megaphone }) =>
		new Megaphone("/", %s).subscribe("chat", ({ body }) => bodies.push(body)))`, base64.StdEncoding.EncodeToString(code), function))
	p.await("the client has the welcome", `String(bodies) === "Welcome"`)
}

// runProgram runs a program until the test ends. It returns when something listens at the address.
func runProgram(t *testing.T, server *testserver.Server, address, program string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(server.Dir, "program.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("%s said:\n%s", program, said)
		}
	})
	server.Await(program+" listens", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}
