package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// pages returns the texts of all documentation pages, by path.
func pages(t *testing.T) map[string]string {
	t.Helper()
	var paths []string
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../docs/recipes/*.md", "../client/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	texts := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = string(text)
	}
	return texts
}

var (
	linkPattern    = regexp.MustCompile(`(?:\]\(|(?:src|srcset)=")([^)"\s]+)[)"]`)
	blockPattern   = regexp.MustCompile("(?ms)^( *)```caddyfile\n(.*?)^ *```$")
	commandPattern = regexp.MustCompile("(?m)^(?:\\$ )?(caddy megaphone [^|&\n]*)|`(caddy megaphone [^`]*)`")
	headingPattern = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

func TestLinksInDocsLeadSomewhere(t *testing.T) {
	texts := pages(t)
	for path, text := range texts {
		for _, link := range linkPattern.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(link[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			file := filepath.Join(filepath.Dir(path), target)
			if target == "" {
				file = path
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s: %s: %v", path, link[1], err)
				continue
			}
			if anchor != "" && !hasAnchor(texts[file], anchor) {
				t.Errorf("%s: %s: the page has no such heading", path, link[1])
			}
		}
	}
}

// TestQuestionsAreTwoClicksFromTheReadme checks that each question of docs/questions.md has a page with an answer, and
// that the README links to the questions. TestLinksInDocsLeadSomewhere checks where the links lead.
func TestQuestionsAreTwoClicksFromTheReadme(t *testing.T) {
	texts := pages(t)
	if !strings.Contains(texts["../README.md"], "(docs/questions.md)") {
		t.Error("the README does not link to docs/questions.md")
	}
	questions := strings.Split(texts["../docs/questions.md"], "\n### ")[1:]
	if len(questions) < 12 {
		t.Errorf("docs/questions.md has only %d questions", len(questions))
	}
	for _, question := range questions {
		title, answer, _ := strings.Cut(question, "\n")
		if links := linkPattern.FindAllStringSubmatch(answer, -1); !slices.ContainsFunc(links, func(link []string) bool {
			return !strings.Contains(link[1], "://")
		}) {
			t.Errorf("%q has no page with the answer", title)
		}
	}
}

// hasAnchor reports whether a page has the heading that an anchor names.
func hasAnchor(text, anchor string) bool {
	for _, heading := range headingPattern.FindAllStringSubmatch(text, -1) {
		words := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		if strings.ReplaceAll(words, " ", "-") == anchor {
			return true
		}
	}
	return false
}

func TestCaddyfilesInDocsAreUnderstood(t *testing.T) {
	for path, text := range pages(t) {
		if strings.Contains(path, "recipes") {
			continue // other tests run these unchanged
		}
		for _, block := range blockPattern.FindAllStringSubmatch(text, -1) {
			config := strings.ReplaceAll("\n"+block[2], "\n"+block[1], "\n")
			if strings.HasPrefix(config, "\nlog ") || strings.HasPrefix(config, "\nmegaphone ") {
				config = "http:// {" + config + "}" // the block is a part of a site
			}
			_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
			if err != nil && strings.Contains(err.Error(), "module not registered: events.handlers.exec") {
				continue // the page says that this module must be built in
			}
			if err != nil {
				t.Errorf("%s: %v in\n%s", path, err, config)
			}
		}
	}
}

func TestCommandsInDocsAreUnderstood(t *testing.T) {
	t.Parallel()
	checked := 0
	for path, text := range pages(t) {
		for _, found := range commandPattern.FindAllStringSubmatch(text, -1) {
			words := regexp.MustCompile(`'[^']*'|<[^>]*>|\S+`).FindAllString(found[1]+found[2], -1)
			if words[2] == "…" {
				continue
			}
			// With --help a command does nothing. But an unknown flag or command is still an error.
			output, err := execute(append(words[1:], "--help")...)
			if err != nil || !strings.Contains(output, "caddy megaphone "+words[2]) {
				t.Errorf("%s: %s: %v\n%s", path, words, err, output)
			}
			checked++
		}
	}
	if checked < 10 {
		t.Errorf("the docs have only %d commands", checked)
	}
}

// execute runs a command of Caddy in this process, which takes much less time than another process does. It returns what the
// command prints. The command must not do anything: see TestCommandsInDocsAreUnderstood.
func execute(args ...string) (output string, err error) {
	ours := caddycmd.Commands()["megaphone"]
	command := &cobra.Command{Use: ours.Name + " " + ours.Usage}
	ours.CobraFunc(command)
	caddy := &cobra.Command{Use: "caddy", SilenceErrors: true, SilenceUsage: true}
	caddy.AddCommand(command)
	var printed strings.Builder
	caddy.SetOut(&printed)
	caddy.SetErr(&printed)
	caddy.SetArgs(args)
	err = caddy.Execute()
	return printed.String(), err
}
