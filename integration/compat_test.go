package integration

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// TestOldNamesOnMetricsPages checks that Prometheus finds the old names exactly as they are configured. They are on the
// admin endpoint and on a site, in Prometheus' own format and in OpenMetrics.
func TestOldNamesOnMetricsPages(t *testing.T) {
	t.Parallel()
	s, metrics := startWithMetrics(t, `megaphone {
		metrics_compat {
			old_created       caddy_megaphone_channels_created_total
			old_deleted_total caddy_megaphone_channels_deleted_total
			old_life          caddy_megaphone_channel_life_seconds
		}
	}`)
	for _, test := range []struct {
		url, accept, format string
		client              *http.Client
	}{
		{"http://localhost/metrics", "", "text/plain", s.Admin()},
		{"http://metrics/metrics", "", "text/plain", metrics},
		{"http://metrics/metrics", "application/openmetrics-text;version=1.0.0", "application/openmetrics-text", metrics},
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
