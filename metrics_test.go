package megaphone_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
)

// registry has the metrics of the configuration that is loaded.
func registry() *prometheus.Registry {
	ctx := caddy.ActiveContext()
	return ctx.GetMetricsRegistry()
}

// metrics returns what a scrape shows: the values of counters and gauges, and the counts of histograms, by name and
// labels.
func (s *server) metrics() map[string]float64 {
	s.Helper()
	families, err := registry().Gather()
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

// metric waits until a metric has a value that will do.
func (s *server) metric(name, labels string, good func(float64) bool) {
	s.Helper()
	key := name + "{" + labels + "}"
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		value, ok := s.metrics()[key]
		if ok && good(value) {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("%s is %v (%v)", key, value, ok)
		}
	}
}

// wantMetrics compares some metrics, named without their prefix.
func (s *server) wantMetrics(want map[string]float64) {
	s.Helper()
	got := s.metrics()
	for key, value := range want {
		name, labels, _ := strings.Cut(key, "{")
		full := "caddy_megaphone_" + name + "{" + labels
		if labels == "" {
			full += "}"
		}
		if v, ok := got[full]; !ok || v != value {
			s.Errorf("%s is %v (%v), want %v", key, v, ok, value)
		}
	}
}

func TestMetricsAreNamedWell(t *testing.T) {
	serve(t, "megaphone {\nwebhook channel_deleted http://127.0.0.1:1/\n}", "megaphone")
	problems, err := testutil.GatherAndLint(registry())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "caddy_megaphone_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// TestFaultsAreZeroAtFirst for each endpoint: Prometheus sees no increase in a counter that comes with its first value.
func TestFaultsAreZeroAtFirst(t *testing.T) {
	s := serve(t, "", "megaphone")
	for _, endpoint := range []string{"create", "write", "write-batch", "ingest", "read", "channelsExists", "manage", "health", "ui"} {
		s.wantMetrics(map[string]float64{fmt.Sprintf(`requests_refused_total{code="INTERNAL_SERVER_ERROR",endpoint=%q}`, endpoint): 0})
	}
}

// TestMetrics tells what each metric shows, and that a reload keeps it.
func TestMetrics(t *testing.T) {
	const settings = "megaphone {\nbuffer 2\nin_flight 2\nhold 100ms\nmax_channels 3\nmax_readers 10\nmax_memory 1MiB\n}"
	s := serve(t, settings, "megaphone")
	a, b := s.create(), s.create()
	s.create()
	s.do(http.MethodPost, "/create", nil, nil).wantError(t, 503, "LIMIT_REACHED")
	s.write(a, "1")
	s.write(a, "2")
	s.post("/write/"+a.ProducerAddress+"/s", "3").wantError(t, 503, "TIMEOUT")
	key := http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {"k"}}
	for range 2 {
		s.do(http.MethodPost, "/write/"+b.ProducerAddress+"/s", key, strings.NewReader("1"))
	}
	s.get("/read/" + a.ConsumerAddress + "?poll=0") // takes both
	s.get("/read/" + a.ConsumerAddress + "?poll=0") // and again
	read := s.read("/read/" + b.ConsumerAddress)
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
	// The handlers have returned: this is counted last.
	s.metric("caddy_megaphone_read_duration_seconds", `transport="poll"`, func(n float64) bool { return n == 2 })
	s.wantMetrics(want)
	if err := s.load(settings, "megaphone"); err != nil {
		t.Fatal(err)
	}
	s.wantMetrics(want)
	s.get("/read/" + a.ConsumerAddress + "?poll=0") // may leave the channel with a last message, and settles nothing
	if got := s.metrics()["caddy_megaphone_buffered_bytes{}"]; got < 3*100 || got > 3*1000 {
		t.Errorf("3 messages take %v bytes", got)
	}
}

// TestCountersAddUp: whatever producers, consumers, reloads and expiry do at once, in the end each message that was
// accepted is settled or counted as undelivered, and no more is.
func TestCountersAddUp(t *testing.T) {
	const settings = "megaphone {\nbuffer 5\nin_flight 3\nhold 50ms\nttl 400ms\nread_duration 300ms\nmax_memory 100KB\n}"
	s := serve(t, settings, "megaphone")
	// A reload closes idle connections, and a client that has just sent a request on one cannot know what became of it.
	s.client.Transport.(*http.Transport).DisableKeepAlives = true
	var written, created atomic.Int64
	var mu sync.Mutex
	channels := []channel{}
	pick := func() channel {
		mu.Lock()
		defer mu.Unlock()
		return channels[rand.N(len(channels))]
	}
	add := func() {
		c := s.create()
		created.Add(1)
		mu.Lock()
		defer mu.Unlock()
		if channels = append(channels, c); len(channels) > 15 {
			channels = channels[1:] // it will expire, with what is in it
		}
	}
	for range 10 {
		add()
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	work := func(f func()) {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f()
				}
			}
		})
	}
	work(func() { add(); time.Sleep(10 * time.Millisecond) })
	for range 3 {
		work(func() {
			if s.post("/write/"+pick().ProducerAddress+"/s", `"`+strings.Repeat("x", rand.N(2000))+`"`).StatusCode == http.StatusCreated {
				written.Add(1)
			}
		})
	}
	work(func() {
		a, b := pick(), pick()
		body := fmt.Sprintf(`{"channels":[%q,%q],"messages":[{"streamId":"s","body":1},{"streamId":"s","body":2}]}`, a.ProducerAddress, b.ProducerAddress)
		r := s.post("/write-batch", body)
		n := 4
		if a == b {
			n = 2
		}
		written.Add(int64(n - strings.Count(r.body, `"index"`)))
	})
	work(func() { // a consumer that reads for its time
		response := s.open(http.MethodGet, "/read/"+pick().ConsumerAddress, nil, nil)
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
	})
	work(func() { // one that breaks off
		response := s.open(http.MethodGet, "/read/"+pick().ConsumerAddress, nil, nil)
		_, _ = response.Body.Read(make([]byte, 100))
		response.Body.Close()
	})
	for range 2 { // and some that show cursors
		work(func() {
			c, cursor := pick(), ""
			for range 5 {
				lines := strings.Split(strings.TrimSpace(s.get("/read/"+c.ConsumerAddress+"?poll=10ms&after="+cursor).body), "\n")
				var m message
				if json.Unmarshal([]byte(lines[len(lines)-1]), &m) == nil && m.EID != "" {
					cursor = m.EID
				}
			}
		})
	}
	for range 5 {
		time.Sleep(300 * time.Millisecond)
		if err := s.load(settings, "megaphone"); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	all.Wait()
	s.metric("caddy_megaphone_channels", "", func(n float64) bool { return n == 0 })
	m := s.metrics()
	total := func(name string) (sum float64) {
		for key, value := range m {
			if strings.HasPrefix(key, "caddy_megaphone_"+name+"{") {
				sum += value
			}
		}
		return sum
	}
	accepted, settled, undelivered := total("messages_accepted_total"), total("messages_settled_total"), total("messages_undelivered_total")
	if accepted != settled+undelivered || int64(accepted) != written.Load() || settled == 0 || undelivered == 0 {
		t.Errorf("accepted %v, of which the producers know %d; settled %v, undelivered %v", accepted, written.Load(), settled, undelivered)
	}
	if got := total("channels_deleted_total"); got != float64(created.Load()) || got != total("channels_created_total") || got != total("channel_life_seconds") {
		t.Errorf("%d channels created, %v deleted", created.Load(), got)
	}
	s.metric("caddy_megaphone_held_producers", "", func(n float64) bool { return n == 0 })
	for _, name := range []string{"messages_pending", "messages_in_flight", "buffered_bytes", "held_bytes", "channels_read", "readers"} {
		if got := total(name); got != 0 {
			t.Errorf("%s is %v in the end", name, got)
		}
	}
	t.Logf("accepted %v, settled %v, undelivered %v, redelivered %v, refused %v", accepted, settled, undelivered,
		total("messages_redelivered_total"), total("messages_refused_total"))
}

// TestRefusedIngestsCount like other refused requests, in the metrics and in the access log, though they are answered
// with a result.
func TestRefusedIngestsCount(t *testing.T) {
	file := &accessLog{T: t, path: filepath.Join(t.TempDir(), "access.log")}
	s := serve(t, "megaphone {\nmax_message_size 100\n}", "log {\noutput file "+file.path+" {\nroll_disabled\n}\n}\nmegaphone")
	s.do(http.MethodPost, "/write", http.Header{"Content-Type": {"application/x-ndjson"}}, strings.NewReader(strings.Repeat("x", 101)))
	file.wants(map[string]any{"endpoint": "ingest", "messages": 0, "error": "PAYLOAD_TOO_LARGE"})
	s.wantMetrics(map[string]float64{`requests_refused_total{code="PAYLOAD_TOO_LARGE",endpoint="ingest"}`: 1})
}
