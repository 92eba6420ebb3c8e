package megaphone

import (
	"net/http"
	"net/url"
	"os"
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
