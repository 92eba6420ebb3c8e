package integration

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-megaphone/megaphone/internal/testserver"
)

// TestOldNamesOnMetricsPages: Prometheus finds the old names as they are written, from the admin endpoint and from a
// site, in its own format and in OpenMetrics.
func TestOldNamesOnMetricsPages(t *testing.T) {
	s := testserver.New(t)
	site, sites := s.Socket("site"), s.Socket("metrics")
	s.Start(`megaphone {
		metrics_compat {
			old_created       caddy_megaphone_channels_created_total
			old_deleted_total caddy_megaphone_channels_deleted_total
			old_life          caddy_megaphone_channel_life_seconds
		}
	}`, "http:// {\nbind unix/"+site+"\nmegaphone create\n}\nhttp://metrics {\nbind unix/"+sites+"\nmetrics\n}")
	response, err := testserver.UnixClient(t, site).Post("http://localhost/create", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	for _, test := range []struct {
		url, accept, format string
		client              *http.Client
	}{
		{"http://localhost/metrics", "", "text/plain", s.Admin()},
		{"http://metrics/metrics", "", "text/plain", testserver.UnixClient(t, sites)},
		{"http://metrics/metrics", "application/openmetrics-text;version=1.0.0", "application/openmetrics-text", testserver.UnixClient(t, sites)},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, test.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", test.accept)
		response, err := test.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !strings.HasPrefix(response.Header.Get("Content-Type"), test.format) {
			t.Errorf("%s: %s, %v, %v", test.url, response.Status, response.Header, err)
		}
		for _, line := range []string{
			`old_created 1(\.0)?`, `old_deleted_total 0(\.0)?`, `old_life_bucket\{le="\+Inf"\} 0`, `old_life_count 0`,
			`caddy_megaphone_channels_created_total 1(\.0)?`,
		} {
			if !regexp.MustCompile(`(?m)^` + line + `$`).Match(body) {
				t.Errorf("%s %s: there is no line %s", test.url, test.format, line)
			}
		}
	}
}
