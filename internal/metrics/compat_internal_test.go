package metrics

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/transport"
	"github.com/caddy-megaphone/megaphone/internal/webhook"
)

var (
	testEndpoints = []string{"create", "write"}
	testLimits    = []string{"max_channels"}
)

// exercised returns metrics that all have a value.
func exercised(t *testing.T) *Metrics {
	t.Helper()
	b := storing{memory.New()}
	t.Cleanup(b.Close)
	hooks := webhook.NewMetrics(Name)
	m := New(b, testEndpoints, testLimits, append(hooks.Collectors(), conn.Collectors(Name)...)...)
	for range 2 {
		m.CountRefusal("create", "LIMIT_REACHED")
	}
	for range 3 {
		m.CountRefusal("write", "TIMEOUT")
	}
	hooks.Queued.WithLabelValues("channel_deleted").Set(4)
	hooks.Delivered.WithLabelValues("channel_deleted").Inc()
	hooks.Lost.WithLabelValues("channel_deleted").Inc()
	hooks.Failures.WithLabelValues("channel_deleted").Inc()
	return m
}

// gathered returns what the metrics endpoint of a configuration shows, by name.
func gathered(t *testing.T, m *Metrics, old map[string]string) map[string]*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry() // like Caddy's
	if err := m.Register(registry, broker.Limits{MaxChannels: 7}, old); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*dto.MetricFamily{}
	for _, f := range families {
		byName[f.GetName()] = f
	}
	return byName
}

func TestEveryMetricCanHaveAnOldName(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(metricTypes)), slices.Sorted(maps.Keys(metricNames())); !slices.Equal(got, want) {
		t.Fatalf("metricTypes has %v\nbut the metrics are %v", got, want)
	}
	old := map[string]string{}
	for name := range metricTypes {
		old[strings.Replace(name, "caddy_megaphone", "old", 1)] = name
	}
	families := gathered(t, exercised(t), old)
	for name, metric := range old {
		if families[metric].GetType() != metricTypes[metric] || families[name].GetType() != metricTypes[metric] {
			t.Errorf("%s is a %v, and as %s a %v", metric, families[metric].GetType(), name, families[name].GetType())
		}
		if n := len(families[name].GetMetric()); n != 1 || len(families[name].GetMetric()[0].GetLabel()) > 0 {
			t.Errorf("%s has labels, or appears %d times", name, n)
		}
	}
}

func TestOldNamesAreSumsOverLabels(t *testing.T) {
	families := gathered(t, exercised(t), map[string]string{
		"refused": "caddy_megaphone_requests_refused_total", "waiting": "caddy_megaphone_webhook_queue",
		"limit": "caddy_megaphone_channels_limit", "again": "caddy_megaphone_requests_refused_total",
	})
	for name, want := range map[string]float64{"refused": 5, "waiting": 4, "limit": 7, "again": 5} {
		m := families[name].GetMetric()[0]
		if got := m.GetCounter().GetValue() + m.GetGauge().GetValue(); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// TestOldNamesBeginAtZero: a counter without labels exists from the start, even if ours has labels and does not.
func TestOldNamesBeginAtZero(t *testing.T) {
	b := memory.New()
	defer b.Close()
	for _, name := range []string{"webhook_queue", "webhook_lost_total"} {
		m := New(b, testEndpoints, testLimits, append(webhook.NewMetrics(Name).Collectors(), conn.Collectors(Name)...)...)
		families := gathered(t, m, map[string]string{"old": Name(name)})
		if families[Name(name)] != nil || len(families["old"].GetMetric()) != 1 {
			t.Errorf("%s is %v, and as old %v", name, families[Name(name)], families["old"])
		}
	}
}

func TestOldHistogramsAreSumsBucketForBucket(t *testing.T) {
	m := exercised(t)
	for seconds := 0.001; seconds < 10_000; seconds *= 3 {
		for kind := range m.readDuration {
			m.readDuration[kind].Observe(seconds * float64(kind+1))
		}
	}
	families := gathered(t, m, map[string]string{"old": "caddy_megaphone_read_duration_seconds"})
	var count uint64
	var sum float64
	buckets := map[float64]uint64{}
	for _, m := range families["caddy_megaphone_read_duration_seconds"].GetMetric() {
		h := m.GetHistogram()
		count, sum = count+h.GetSampleCount(), sum+h.GetSampleSum()
		for _, b := range h.GetBucket() {
			buckets[b.GetUpperBound()] += b.GetCumulativeCount()
		}
	}
	h := families["old"].GetMetric()[0].GetHistogram()
	got := map[float64]uint64{}
	for _, b := range h.GetBucket() {
		got[b.GetUpperBound()] = b.GetCumulativeCount()
	}
	if h.GetSampleCount() != count || h.GetSampleSum() != sum || !maps.Equal(got, buckets) ||
		count != 15*uint64(transport.KindCount) {
		t.Errorf("%v observations in %v, sum %v; want %v in %v, sum %v", h.GetSampleCount(), got, h.GetSampleSum(), count, buckets, sum)
	}
}

// TestOldMetricsAreLinted: old names may break the linter's rules for names, but nothing else may.
func TestOldMetricsAreLinted(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	err := exercised(t).Register(registry, broker.Limits{}, map[string]string{
		"old_created_total": "caddy_megaphone_channels_created_total", "old_read_seconds": "caddy_megaphone_read_duration_seconds",
	})
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

func TestOldNameOfAnotherModuleIsRefused(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "theirs", Help: "Of another module."}))
	err := exercised(t).Register(registry, broker.Limits{}, map[string]string{"theirs": "caddy_megaphone_channels"})
	if err == nil || !strings.Contains(err.Error(), "metrics_compat: another module has a metric of that name, so leave the name out:") ||
		!strings.Contains(err.Error(), `"theirs"`) {
		t.Error(err)
	}
}

// TestOldNamesAreChecked tests the rules. Folder integration tests that both syntaxes report mistakes.
func TestOldNamesAreChecked(t *testing.T) {
	const counter, histogram = "caddy_megaphone_channels_created_total", "caddy_megaphone_publish_wait_seconds"
	for _, test := range []struct {
		old  map[string]string
		want string
	}{
		{map[string]string{"a": counter, "A:b_9": counter, "_": histogram, "a_count": counter}, ""},
		{map[string]string{"a_bucket": counter, "b": histogram}, ""},
		{map[string]string{"": counter}, "use letters, digits, _ and :"},
		{map[string]string{"9a": counter}, "no digit first"},
		{map[string]string{"a-b": counter}, "metrics_compat: a-b: the old name is not a valid metric name"},
		{map[string]string{"a b": counter}, "not a valid metric name"},
		{map[string]string{"ä": counter}, "not a valid metric name"},
		{map[string]string{"a\n": counter}, "not a valid metric name"},
		{map[string]string{"a": ""}, `there is no metric "": name one of caddy_megaphone_buffered_bytes, `},
		{map[string]string{"a": "channels_created_total"}, `there is no metric "channels_created_total"`},
		{map[string]string{"a": histogram + "_sum"}, "there is no metric"},
		{map[string]string{counter: "a"}, "write the old name first"},
		{map[string]string{"caddy_http_requests_total": counter}, "belong to Caddy"},
		{map[string]string{"promhttp_metric_handler_requests_total": counter}, "belong to Caddy"},
		{map[string]string{"a_bucket": histogram}, "is a histogram"},
		{map[string]string{"a": histogram, "a_sum": counter}, "the histogram a has a series a_sum: leave one of the two out"},
		{map[string]string{"a": histogram, "a_count": counter}, "a series a_count"},
		{map[string]string{"a": histogram, "a_bucket": counter}, "a series a_bucket"},
	} {
		err := checkCompat(test.old)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%v: %v, want %q", test.old, err, test.want)
		}
		if err == nil {
			gathered(t, exercised(t), test.old) // Prometheus accepts them
		}
	}
}
