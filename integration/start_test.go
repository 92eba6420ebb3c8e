package integration

import (
	"bytes"
	"encoding/json"
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

// startFiles maps each file of examples/start to the kind of block in docs/start.md that shows it.
var startFiles = map[string]string{"Caddyfile": "caddyfile", "page.html": "html", "backend.py": "python", "backend.mjs": "js"}

func TestDocsShowTheFilesOfTheExample(t *testing.T) {
	t.Parallel()
	lines := map[string]int{}
	for name, kind := range startFiles {
		file, err := os.ReadFile("../examples/start/" + name)
		if err != nil {
			t.Fatal(err)
		}
		pages := []string{"../docs/start.md"}
		if kind == "html" || kind == "python" {
			pages = append(pages, "../README.md")
		}
		for _, page := range pages {
			if firstBlock(t, page, kind) != string(file) {
				t.Errorf("%s does not show examples/start/%s as it is", page, name)
			}
		}
		for line := range strings.Lines(string(file)) {
			if strings.TrimSpace(line) != "" {
				lines[name]++
			}
		}
	}
	for _, backend := range []string{"backend.py", "backend.mjs"} {
		if n := lines["page.html"] + lines[backend]; n > 40 {
			t.Errorf("the page and %s have %d lines, and the docs promise some 40", backend, n)
		}
	}
}

func TestStartExampleRuns(t *testing.T) {
	t.Parallel()
	for program, file := range map[string]string{"python3": "backend.py", "node": "backend.mjs"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			path, err := exec.LookPath(program)
			if err != nil {
				t.Skipf("%s is not installed", program)
			}
			s, site := startExampleApp(t, path, file)
			request := func(method, path, body string) string {
				t.Helper()
				r, err := http.NewRequestWithContext(t.Context(), method, site+path, strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				response, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				text, err := io.ReadAll(response.Body)
				if err != nil || response.StatusCode != http.StatusOK {
					t.Fatalf("%s %s: %s %s %v", method, path, response.Status, text, err)
				}
				return string(text)
			}
			if page := request(http.MethodGet, "/", ""); !strings.HasPrefix(page, "<!doctype html>") {
				t.Errorf("the page is %s", page)
			}
			addresses := []string{request(http.MethodPost, "/channel", ""), request(http.MethodPost, "/channel", "")}
			request(http.MethodPost, "/say", `"hello, \"all\""`)
			for _, address := range addresses {
				var bodies []string
				for lines := json.NewDecoder(strings.NewReader(request(http.MethodGet, "/read/"+address+"?poll=5s", ""))); lines.More(); {
					var m struct{ SID, Body string }
					if err := lines.Decode(&m); err != nil || m.SID != "chat" {
						t.Errorf("%+v %v", m, err)
					}
					bodies = append(bodies, m.Body)
				}
				if fmt.Sprint(bodies) != `[Welcome hello, "all"]` {
					t.Errorf("a page gets %q\n%s", bodies, s.Log())
				}
			}
		})
	}
}

// startExampleApp runs examples/start with a backend. It only changes the ports. It returns the address of the site.
func startExampleApp(t *testing.T, program, backend string) (s *testserver.Server, site string) {
	t.Helper()
	s = testserver.New(t)
	ports := examplePorts{}
	for _, port := range []string{"8080", "8000", "3000"} {
		ports[port] = testserver.FreePort(t)
	}
	texts := map[string]string{}
	for name := range startFiles {
		text, err := os.ReadFile("../examples/start/" + name)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = ports.replacer().Replace(string(text))
		if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(texts[name]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.StartFile(fmt.Sprintf("{\n\tadmin unix/%s\n}\n%s", s.Socket("admin"), texts["Caddyfile"]))
	cmd := exec.CommandContext(t.Context(), program, filepath.Join(s.Dir, backend))
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the backend:\n%s", &log)
		}
	})
	awaitListener(t, fmt.Sprint("127.0.0.1:", ports["8000"]))
	return s, fmt.Sprint("http://localhost:", ports["8080"])
}
