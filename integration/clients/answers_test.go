package clients

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// An answersPage has the code of docs/answers.md in a folder, and a server with the page's configuration.
type answersPage struct {
	folder, site, inside, manage string
	port                         int // of the backend
	blocks                       map[string]string
}

// answersBlock is a block of code: its language, and its text. The text begins with a comment that names a file, except for
// configurations and shell commands.
var answersBlock = regexp.MustCompile("(?ms)^```(\\w+)\n((?:(?://|#) ([a-z-]+\\.\\w+)$)?.*?)^```$")

// openAnswersPage starts the server, and writes the code into files. The folder is in that of the JavaScript client, so that
// the code finds the client by its name.
func openAnswersPage(t *testing.T) *answersPage {
	t.Helper()
	if testing.Short() {
		t.Skip("takes many seconds")
	}
	text, err := os.ReadFile("../../docs/answers.md")
	if err != nil {
		t.Fatal(err)
	}
	local := func() string { return fmt.Sprintf("127.0.0.1:%d", testserver.FreePort(t)) }
	p := &answersPage{port: testserver.FreePort(t), blocks: map[string]string{}}
	site, inside, manage := local(), local(), local()
	p.site, p.inside, p.manage = "http://"+site, "http://"+inside, "http://"+manage
	build := filepath.Join("..", "..", "client", "js", "build")
	if err := os.MkdirAll(build, 0o750); err != nil {
		t.Fatal(err)
	}
	if p.folder, err = os.MkdirTemp(build, "answers"); err == nil { //nolint:usetesting // the code finds the client from there
		p.folder, err = filepath.Abs(p.folder)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(p.folder) })
	host, insidePort, _ := strings.Cut(inside, ":")
	replacer := strings.NewReplacer("app.example.com {", p.site+" {", "127.0.0.1:8080", fmt.Sprintf("127.0.0.1:%d", p.port),
		"http://127.0.0.1:3000", p.inside, fmt.Sprintf("%q, 3000", host), fmt.Sprintf("%q, %s", host, insidePort))
	for _, block := range answersBlock.FindAllStringSubmatch(string(text), -1) {
		language, code, name := block[1], replacer.Replace(block[2]), block[3]
		if name == "" {
			name = language
			code = p.blocks[language] + code
		} else if err := os.WriteFile(filepath.Join(p.folder, name), []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
		p.blocks[name] = code
	}
	// These are the blocks that the tests run.
	want := []string{"answers.js", "answers.py", "caddyfile", "chat-page.jsx", "chat.js", "page.js", "pieces.js", "read.js", "sh", "transport.js", "ui.py"}
	if names := slices.Sorted(maps.Keys(p.blocks)); !slices.Equal(names, want) {
		t.Fatalf("docs/answers.md has %q, and the tests run %q", names, want)
	}
	testserver.New(t).Start("", p.blocks["caddyfile"]+p.manage+" {\nmegaphone manage\n}")
	return p
}

// run runs a program with the code.
func (p *answersPage) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool(t, program), args...)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+p.folder, "PYTHONDONTWRITEBYTECODE=1")
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", program, err, output)
	}
	return string(output)
}

// TestAnswersPage runs the code of docs/answers.md.
func TestAnswersPage(t *testing.T) {
	t.Parallel()
	p := openAnswersPage(t)
	t.Run("Node", func(t *testing.T) {
		t.Parallel()
		p.run(t, "node", "answers.mjs", p.folder, p.site, fmt.Sprint(p.port), p.manage)
	})
	t.Run("Python", func(t *testing.T) {
		t.Parallel()
		const check = `
import answers, sys

def pieces(dies):
    yield "Once "
    yield "upon"
    if dies:
        raise KeyError("the model dies")

for dies in [False, True]:
    answer = answers.begin()
    try:
        answers.write(answer, pieces(dies))
    except KeyError:
        pass
    print(answers.channel_for(answer)["consumerAddress"])
assert answers.channel_for("answer-unknown") is None
try:
    answers.write(answers.begin(), ["x" * 3_000_000])
except OSError as error:
    assert "413" in str(error), error
else:
    raise AssertionError("a piece that is too large was written")
`
		addresses := strings.Fields(p.run(t, "python3", "-c", check))
		if len(addresses) != 2 {
			t.Fatalf("there are %d channels", len(addresses))
		}
		p.wantText(t, addresses[0], `"Once upon"null"end":"done"`)
		p.wantText(t, addresses[1], `"Once upon"null"end":"aborted"`)
	})
	t.Run("shell", func(t *testing.T) {
		t.Parallel()
		tool(t, "curl")
		tool(t, "jq")
		p.run(t, "bash", "-euc", p.blocks["sh"])
		for topic, want := range map[string]string{
			`{"topic":"build-7","last":"all"}`: `"compiling\nlinking\n"null"end":"done"`,
			`{"topic":"export-7","last":1}`:    `100null"end":"done"`,
		} {
			var channel struct{ ConsumerAddress string }
			post(t, p.inside+"/create", `{"topics":[`+topic+`]}`, 200, &channel)
			p.wantText(t, channel.ConsumerAddress, want)
		}
	})
}

// bodiesPattern finds bodies and ends in lines.
var bodiesPattern = regexp.MustCompile(`"body":(.*?)(?:,("end":"\w+"))?}\n`)

// wantText polls a channel until its stream has ended, and checks the bodies and the end. Texts may come in any pieces.
func (p *answersPage) wantText(t *testing.T, address, want string) {
	t.Helper()
	var got strings.Builder
	for after := ""; !strings.Contains(got.String(), `"end"`); {
		response, err := http.Get(p.site + "/read/" + address + "?poll=20s&after=" + after)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || len(text) == 0 {
			t.Fatalf("the channel has %s, and then %s %v", got.String(), response.Status, err)
		}
		for _, match := range bodiesPattern.FindAllStringSubmatch(string(text), -1) {
			got.WriteString(match[1] + match[2])
		}
		ids := regexp.MustCompile(`"eid":"([^"]+)"`).FindAllStringSubmatch(string(text), -1)
		after = ids[len(ids)-1][1]
	}
	if joined := strings.ReplaceAll(got.String(), `""`, ""); joined != want {
		t.Errorf("the channel has %s, want %s", joined, want)
	}
}

// TestAnswersPageLibraries runs the code of docs/answers.md for AI kits, with the kits as they are published.
func TestAnswersPageLibraries(t *testing.T) {
	t.Parallel()
	kits, err := filepath.Abs(filepath.Join("ai", "node_modules"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kits); err != nil {
		if os.Getenv("MEGAPHONE_LIBRARIES") != "" {
			t.Fatal(err)
		}
		t.Skip("the kits are not installed: run integration/clients/ai/install")
	}
	p := openAnswersPage(t)
	if err := os.Symlink(kits, filepath.Join(p.folder, "node_modules")); err != nil {
		t.Fatal(err)
	}
	t.Log(p.run(t, "node", "answers_kits.mjs", p.folder, p.site, fmt.Sprint(p.port), p.manage))
}
