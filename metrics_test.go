package megaphone_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
)

// metricsRegistry returns the metrics of the loaded configuration.
func metricsRegistry() *prometheus.Registry {
	ctx := caddy.ActiveContext()
	return ctx.GetMetricsRegistry()
}

// metrics returns what Prometheus would scrape: the values of counters and gauges, and the counts of histograms. A key is
// a full name with its labels, such as `caddy_megaphone_readers{transport="sse"}` or `caddy_megaphone_channels{}`.
func (s *server) metrics() map[string]float64 {
	s.Helper()
	families, err := metricsRegistry().Gather()
	if err != nil {
		s.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			values[family.GetName()+"{"+labels(m)+"}"] = m.GetCounter().GetValue() + m.GetGauge().GetValue() +
				float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

func labels(m *dto.Metric) string {
	var pairs []string
	for _, label := range m.GetLabel() {
		pairs = append(pairs, fmt.Sprintf("%s=%q", label.GetName(), label.GetValue()))
	}
	return strings.Join(pairs, ",")
}

// awaitMetric waits until the value of a metric satisfies a condition.
func (s *server) awaitMetric(name, labels string, condition func(float64) bool) {
	s.Helper()
	key := name + "{" + labels + "}"
	for start := time.Now(); ; time.Sleep(max(5*time.Millisecond, time.Since(start)/30)) {
		value, ok := s.metrics()[key]
		if ok && condition(value) {
			return
		}
		if time.Since(start) > 10*time.Second {
			s.Fatalf("%s is %v (exists: %v)", key, value, ok)
		}
	}
}

// wantMetrics checks some metrics. It takes keys as in metrics, without the prefix caddy_megaphone_ and without empty
// braces.
func (s *server) wantMetrics(want map[string]float64) {
	s.Helper()
	full := map[string]float64{}
	for key, value := range want {
		if !strings.HasSuffix(key, "}") {
			key += "{}"
		}
		full["caddy_megaphone_"+key] = value
	}
	s.wantScraped(full)
}

// wantScraped checks some metrics. It takes keys as in metrics.
func (s *server) wantScraped(want map[string]float64) {
	s.Helper()
	got := s.metrics()
	for key, value := range want {
		if v, ok := got[key]; !ok || v != value {
			s.Errorf("%s is %v (exists: %v), want %v", key, v, ok, value)
		}
	}
}

// wantNotScraped checks that some metrics do not exist. It takes keys as in metrics.
func (s *server) wantNotScraped(keys ...string) {
	s.Helper()
	got := s.metrics()
	for _, key := range keys {
		if v, ok := got[key]; ok {
			s.Errorf("%s is %v, but should not exist", key, v)
		}
	}
}

func TestMetricsPassTheLinterOfPrometheus(t *testing.T) {
	serve(t, "megaphone {\nwebhook channel_deleted http://127.0.0.1:1/\n}", "megaphone")
	problems, err := testutil.GatherAndLint(metricsRegistry())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "caddy_megaphone_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// TestFaultCountersBeginWithZero checks that the counter of faults exists for each endpoint before the first fault.
// Otherwise Prometheus would not see the first fault as an increase.
func TestFaultCountersBeginWithZero(t *testing.T) {
	s := serve(t, "", "megaphone")
	for _, endpoint := range []string{"create", "write", "write-batch", "ingest", "read", "channelsExists", "manage", "topic", "topic-member", "topic-close", "publish", "health", "ui"} {
		s.wantMetrics(map[string]float64{fmt.Sprintf(`requests_refused_total{code="INTERNAL_SERVER_ERROR",endpoint=%q}`, endpoint): 0})
	}
}

// TestMetrics checks the value of each metric, and that a reload keeps it.
func TestMetrics(t *testing.T) {
	const settings = "megaphone {\nbuffer 2\nin_flight 2\nhold 100ms\nmax_channels 3\nmax_readers 10\nmax_memory 1MiB\n}"
	s := serve(t, settings, "megaphone")
	a, b := s.create(), s.create()
	s.create()
	s.tryCreate().wantError(t, 503, "LIMIT_REACHED")
	s.write(a, "1")
	s.write(a, "2")
	s.tryWrite(a, "3").wantError(t, 503, "TIMEOUT")
	keyed := http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {"k"}}
	for range 2 {
		s.do(http.MethodPost, b.writePath(), keyed, strings.NewReader("1"))
	}
	s.poll(a) // gets both messages
	s.poll(a) // gets them again
	read := s.read(b)
	read.wants("1")
	s.get("/create").wantError(t, 405, "METHOD_NOT_ALLOWED")
	want := map[string]float64{
		"channels":                                      3,
		"channels_limit":                                3,
		"channels_read":                                 1,
		"readers_limit":                                 10,
		"buffered_limit_bytes":                          1 << 20,
		`readers{transport="ndjson"}`:                   1,
		`readers{transport="poll"}`:                     0,
		"messages_pending":                              0,
		"messages_in_flight":                            3,
		"direct_connections":                            0,
		"held_producers":                                0,
		"held_bytes":                                    0,
		"messages_accepted_total":                       3,
		"messages_repeated_total":                       1,
		"messages_replaced_total":                       0,
		"messages_appended_total":                       0,
		"messages_sent_total":                           5,
		"messages_redelivered_total":                    2,
		"messages_settled_total":                        0,
		"channels_created_total":                        3,
		"publish_wait_seconds":                          3,
		"delivery_delay_seconds":                        3,
		"channel_life_seconds":                          0,
		`limit_refusals_total{limit="max_channels"}`:    1,
		`limit_refusals_total{limit="max_memory"}`:      0,
		`messages_refused_total{reason="channel_full"}`: 1,
		`messages_refused_total{reason="memory_full"}`:  0,
		`messages_undelivered_total{reason="expired"}`:  0,
		`channels_deleted_total{reason="deleted"}`:      0,
		`read_duration_seconds{transport="poll"}`:       2,
		`requests_refused_total{code="LIMIT_REACHED",endpoint="create"}`:      1,
		`requests_refused_total{code="METHOD_NOT_ALLOWED",endpoint="create"}`: 1,
		`requests_refused_total{code="TIMEOUT",endpoint="write"}`:             1,
	}
	// Handlers count this last.
	s.awaitMetric("caddy_megaphone_read_duration_seconds", `transport="poll"`, func(n float64) bool { return n == 2 })
	s.wantMetrics(want)
	s.reload(settings, "megaphone")
	s.wantMetrics(want)
	s.poll(a) // settles nothing, so all 3 messages remain
	if got := s.metrics()["caddy_megaphone_buffered_bytes{}"]; got < 3*100 || got > 3*1000 {
		t.Errorf("3 messages take %v bytes, want 300 to 3000", got)
	}
}

// TestMetricsCompat checks that each configuration shows metrics under the old names that it gives them. The values
// continue over reloads, and the metrics keep their own names too.
func TestMetricsCompat(t *testing.T) {
	const limits = "megaphone {\nbuffer 2\nhold 50ms\n"
	s := serve(t, limits+`metrics_compat {
		old_created caddy_megaphone_channels_created_total
		old_refused caddy_megaphone_requests_refused_total
		old_wait    caddy_megaphone_publish_wait_seconds
	}
	}`, "megaphone create write read exists manage")
	a, b := s.create(), s.create()
	s.write(a, "1")
	s.write(a, "2")
	s.tryWrite(a, "3").wantError(t, 503, "TIMEOUT")
	s.get("/create").wantError(t, 405, "METHOD_NOT_ALLOWED")
	s.wantScraped(map[string]float64{
		"old_created{}": 2, "caddy_megaphone_channels_created_total{}": 2,
		"old_refused{}": 2, `caddy_megaphone_requests_refused_total{code="TIMEOUT",endpoint="write"}`: 1,
		"old_wait{}": 2, "caddy_megaphone_publish_wait_seconds{}": 2,
	})

	s.reload(limits+`metrics_compat {
		old_created caddy_megaphone_channels_created_total
		old_gone    caddy_megaphone_channels_deleted_total
		old_lives   caddy_megaphone_channel_life_seconds
	}
	}`, "megaphone create write read exists manage")
	s.create()
	s.deleteChannel(b)
	s.wantScraped(map[string]float64{
		"old_created{}": 3, "old_gone{}": 1, "old_lives{}": 1, `caddy_megaphone_channels_deleted_total{reason="deleted"}`: 1,
	})
	s.wantNotScraped("old_refused{}", "old_wait{}")

	// Without a block, the names are those of the original Megaphone. Their values continue too.
	s.reload(limits+"metrics_compat\n}", "megaphone create write read exists manage")
	s.post("/write/main.AAAAAAAAAAAAAAAAAAAAAA/s", "1").wantError(t, 404, "NOT_FOUND")
	s.post("/write-batch", `{"channels":["x","y"],"messages":[{"streamId":"s","body":1},{"streamId":"s","body":2}]}`)
	s.read(a).wants("1")
	s.deleteChannel(a)
	s.wantScraped(map[string]float64{
		"megaphone_channel_created{}": 3, "megaphone_channel_disposed{}": 2, "megaphone_channel_duration{}": 2,
		"megaphone_messages_received{}": 3, "megaphone_messages_read{}": 2, "megaphone_messages_unroutable{}": 5,
		"megaphone_messages_lost{}": 2,
	})
	s.wantNotScraped("old_created{}")

	// A configuration that fails to load changes nothing.
	bad := `{"admin":{"disabled":true},"apps":{"megaphone":{"metrics_compat":{"old-created":"caddy_megaphone_channels"}}}}`
	if err := caddy.Load([]byte(bad), true); err == nil {
		t.Error("a bad name was accepted")
	}
	s.wantScraped(map[string]float64{"megaphone_channel_created{}": 3})

	s.reload(limits+"}", "megaphone")
	s.wantScraped(map[string]float64{"caddy_megaphone_channels_created_total{}": 3})
	s.wantNotScraped("old_created{}", "old_gone{}", "old_lives{}", "megaphone_channel_created{}")
}
