package metrics

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

// metricNames returns the full names of all metrics.
func metricNames() map[string]bool {
	b := storing{memory.New()}
	b.Close()
	descs := make(chan *prometheus.Desc, 100)
	m := New(b, testEndpoints, testLimits, append(webhook.NewMetrics(Name).Collectors(), conn.Collectors(Name)...)...)
	for _, c := range append(limitGauges(broker.Limits{}), m.collectors...) {
		c.Describe(descs)
	}
	close(descs)
	fullName := regexp.MustCompile(`fqName: "([^"]+)"`)
	names := map[string]bool{}
	for desc := range descs {
		names[fullName.FindStringSubmatch(desc.String())[1]] = true
	}
	return names
}

var metricPattern = regexp.MustCompile(`caddy_megaphone_[a-z_]+`)

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(path)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAllMetricsAreDocumented(t *testing.T) {
	text := readFile(t, "docs/metrics.md")
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(caddy_megaphone_[a-z_]+)").FindAllStringSubmatch(text, -1) {
		documented[row[1]] = true
	}
	if want := metricNames(); !maps.Equal(documented, want) {
		t.Errorf("docs/metrics.md describes %v\nbut there are %v", slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(want)))
	}
}

// TestMetricsNamedInDocsExist: the rules, the dashboard and the pages name only metrics that exist.
func TestMetricsNamedInDocsExist(t *testing.T) {
	names := metricNames()
	err := fs.WalkDir(os.DirFS(filepath.Join("..", "..")), "docs", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		for _, name := range metricPattern.FindAllString(readFile(t, path), -1) {
			plain := name
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				plain = strings.TrimSuffix(plain, suffix)
			}
			if !names[name] && !names[plain] {
				t.Errorf("%s names %s, which does not exist", path, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDashboardIsComplete(t *testing.T) {
	var dashboard struct {
		Title, UID string
		Templating struct{ List []struct{ Name string } }
		Panels     []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr, RefID string }
		}
	}
	if err := json.Unmarshal([]byte(readFile(t, "docs/grafana/megaphone.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	if dashboard.Title == "" || dashboard.UID == "" || len(dashboard.Templating.List) != 2 {
		t.Errorf("the dashboard lacks something: %+v", dashboard)
	}
	shown := map[string]bool{}
	ids := map[int]bool{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 || len(p.Targets) == 0 {
			t.Errorf("panel %+v", p)
		}
		ids[p.ID] = true
		for _, q := range dashboard.Panels {
			if a, b := p.GridPos, q.GridPos; p.ID != q.ID && a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %q and %q overlap", p.Title, q.Title)
			}
		}
		for _, target := range p.Targets {
			for _, name := range metricPattern.FindAllString(target.Expr, -1) {
				shown[strings.TrimSuffix(name, "_bucket")] = true
			}
			if !strings.Contains(target.Expr, `{instance=~"$instance"`) {
				t.Errorf("panel %q does not select the chosen instances: %s", p.Title, target.Expr)
			}
		}
	}
	for name := range metricNames() {
		if !shown[name] && name != Name("channels_read") { // the dashboard shows readers by transport
			t.Errorf("no panel shows %s", name)
		}
	}
}

// TestAlertRulesAreComplete checks the shape of the rules. internal/rules, which needs Prometheus, checks that Prometheus
// accepts their expressions and templates.
func TestAlertRulesAreComplete(t *testing.T) {
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(readFile(t, "docs/prometheus/alerts.yml")))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			if seen[rule.Alert] || !strings.HasPrefix(rule.Alert, "Megaphone") || rule.Annotations["summary"] == "" ||
				!slices.Contains([]string{"warning", "critical"}, rule.Labels["severity"]) {
				t.Errorf("rule %+v", rule)
			}
			seen[rule.Alert] = true
			if !metricPattern.MatchString(rule.Expr) {
				t.Errorf("%s uses no metric", rule.Alert)
			}
		}
	}
	if len(seen) == 0 {
		t.Error("there are no rules")
	}
}
