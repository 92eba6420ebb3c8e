package megaphone

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/caddy-megaphone/megaphone/broker"
)

// TestOpenAPIHasEveryEndpoint compares the paths and methods of docs/openapi.yaml with those that are served. integration/clients
// compares the replies.
func TestOpenAPIHasEveryEndpoint(t *testing.T) {
	text, err := os.ReadFile("docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var api struct {
		Paths map[string]map[string]any
	}
	if err := yaml.Unmarshal(text, &api); err != nil {
		t.Fatal(err)
	}
	secret, _ := broker.NewSecrets()
	address := broker.FormatAddress("main", secret)
	described := map[endpoint]bool{uiEndpoint: true} // is for people
	for path, item := range api.Paths {
		example := strings.NewReplacer("{topic}", "t", "{streamId}", "s", "{producerAddress}", address, "{consumerAddress}", address, "{address}", address)
		target, ok := parseTarget(&url.URL{Path: example.Replace(path)})
		if !ok || target.mistake != "" {
			t.Errorf("%s is no path of an endpoint: %s", path, target.mistake)
			continue
		}
		described[target.endpoint] = true
		var methods []string
		for method := range item {
			if method = strings.ToUpper(method); method != "PARAMETERS" {
				methods = append(methods, method)
			}
		}
		served := slices.DeleteFunc(slices.Clone(target.endpoint.methods()), func(m string) bool { return m == http.MethodHead })
		slices.Sort(methods)
		slices.Sort(served)
		if !slices.Equal(methods, served) {
			t.Errorf("%s has the methods %v, and %v are served", path, methods, served)
		}
	}
	for e := range endpointCount {
		if !described[e] {
			t.Errorf("the endpoint %v is not described", e)
		}
	}
}

// TestOpenAPIHasEveryErrorCode compares the codes of errors in docs/openapi.yaml with those of protocol.md 1.2, and with those that
// the server sends.
func TestOpenAPIHasEveryErrorCode(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	codes := func(pattern, text string) (found []string) {
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			if match[1] != "SKIPPED" { // is in results only
				found = append(found, match[1])
			}
		}
		slices.Sort(found)
		return slices.Compact(found)
	}
	var sources strings.Builder
	for _, pattern := range []string{"*.go", "internal/httpjson/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				sources.WriteString(read(file))
			}
		}
	}
	sent := codes(`(?:\bCode:\s+|\b[cC]ode[A-Z]\w*\s+= )"([A-Z_]+)"`, sources.String())
	described := read("docs/openapi.yaml")
	_, described, _ = strings.Cut(described, "\n    Error:\n      type: object\n")
	described, _, _ = strings.Cut(described, "message:")
	if described := codes(`\b([A-Z]+(?:_[A-Z]+)*)\b`, described); !slices.Equal(described, sent) {
		t.Errorf("docs/openapi.yaml has the codes\n%v\nand the server sends\n%v", described, sent)
	}
	if documented := codes("\n\\| `([A-Z_]+)` ", read("docs/protocol.md")); !slices.Equal(documented, sent) {
		t.Errorf("docs/protocol.md has the codes\n%v\nand the server sends\n%v", documented, sent)
	}
}
