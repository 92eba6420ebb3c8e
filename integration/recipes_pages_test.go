package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

const page = "the page\n"

// writePage writes the app's files, which consist of a page.
func (r *recipe) writePage() (dir string) {
	r.Helper()
	dir = filepath.Join(r.dir, "app")
	if err := os.Mkdir(dir, 0o700); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte(page), 0o600); err != nil {
		r.Fatal(err)
	}
	return dir
}

func TestRecipeSinglePageApp(t *testing.T) {
	t.Parallel()
	r := openRecipe(t, "single-page-app")
	dir := r.writePage()
	s := r.start(0)
	r.session(hello, page, `"code":"NOT_FOUND"`)

	client := r.client(s)
	channel := r.backend.channel("bob")
	r.backend.write(channel, "1")
	if text, err := r.firstMessage(client, site+"/read/"+channel.ConsumerAddress+"?after=", "bob"); err != nil || !strings.HasSuffix(text, `"body":1}`) {
		t.Errorf("a WebSocket: %q %v", text, err)
	}

	// The mistakes that the page warns of.
	for _, test := range []struct{ directives, want string }{
		{"root " + dir + "\ntry_files {path} /index.html\nmegaphone read\nfile_server", page},
		{"megaphone read\nrespond nothing 404", "nothing"},
		{"route {\nmegaphone read\nrespond nothing 404\n}", `"code":"NOT_FOUND"`},
		{"root " + dir + "\nmegaphone read\nfile_server", `"code":"NOT_FOUND"`},
	} {
		address := fmt.Sprint("http://127.0.0.1:", testserver.FreePort(t))
		if err := s.Reload("", address+" {\nbind 127.0.0.1\n"+test.directives+"\n}"); err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(r.get(http.DefaultClient, address+"/read/main.nothing?poll=0").Body)
		if !strings.Contains(string(body), test.want) {
			t.Errorf("with %q a read gets %q, want %q", test.directives, body, test.want)
		}
	}
}

// TestRecipeServiceWorker runs the worker in Node, which has no service workers. The test of package browser runs it in a
// browser.
func TestRecipeServiceWorker(t *testing.T) {
	t.Parallel()
	r := openRecipe(t, "service-worker")
	r.writePage()
	s := r.start(0)
	r.session(hello)
	r.wantStatus(200, r.client(s), site+"/")

	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed")
	}
	const before = `const listeners = {};
globalThis.self = { addEventListener: (type, listener) => { listeners[type] = listener; } };
globalThis.caches = { open: async () => ({ match: async () => "cached" }) };
`
	const after = `for (const [method, url] of [["GET", "/"], ["POST", "/"], ["GET", "/app.js?x=/read/"], ["GET", "/read/main.x?after="]]) {
	let answers = false;
	listeners.fetch({ request: { method, url: "https://app.example.com" + url }, respondWith: () => { answers = true; } });
	console.log(answers);
}`
	output, err := exec.CommandContext(t.Context(), node, "-e", before+r.block("js", 0)+after).CombinedOutput()
	if err != nil || string(output) != "true\nfalse\ntrue\nfalse\n" {
		t.Errorf("%s %v", output, err)
	}
}
