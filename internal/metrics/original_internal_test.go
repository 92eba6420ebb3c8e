package metrics

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// TestMetricsOfTheOriginal plays what each of them counts.
func TestMetricsOfTheOriginal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New()
		defer b.Close()
		limits := brokerfixture.Limits
		limits.Buffer, limits.Hold, limits.TTL = 2, 0, 24*time.Hour
		create := func() broker.Addresses {
			a, err := b.Create(t.Context(), "main", limits)
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		publish := func(producer string) {
			_ = b.Publish(t.Context(), producer, brokerfixture.Message(t), limits)
		}
		read, unread, alive := create(), create(), create()
		publish(read.Producer)
		sub, err := b.Subscribe(t.Context(), read.Consumer, broker.SubscribeOptions{Limits: limits})
		if err != nil {
			t.Fatal(err)
		}
		ms, _ := sub.Take(nil, 1<<20)
		sub.Received(len(ms))
		sub.End(broker.EndClean)
		for range 3 { // the last one is refused
			publish(unread.Producer)
		}
		publish(alive.Producer)
		time.Sleep(100 * time.Second)
		_ = b.Delete(t.Context(), read.Consumer)
		time.Sleep(1000 * time.Second)
		_ = b.Delete(t.Context(), unread.Consumer)
		publish(unread.Producer)
		publish("x")

		registry := prometheus.NewPedanticRegistry()
		if err := New(b, testEndpoints, testLimits).RegisterOriginal(registry); err != nil {
			t.Fatal(err)
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		buckets := map[float64]uint64{}
		for _, f := range families {
			if n := len(f.GetMetric()); n != 1 || len(f.GetMetric()[0].GetLabel()) > 0 {
				t.Errorf("%s has labels, or appears %d times", f.GetName(), n)
			}
			m := f.GetMetric()[0]
			if got[f.GetName()] = m.GetCounter().GetValue(); f.GetType() == dto.MetricType_HISTOGRAM {
				got[f.GetName()] = m.GetHistogram().GetSampleSum()
				for _, bucket := range m.GetHistogram().GetBucket() {
					buckets[bucket.GetUpperBound()] = bucket.GetCumulativeCount()
				}
			}
		}
		if want := map[string]float64{
			"megaphone_channel_created": 3, "megaphone_channel_disposed": 2, "megaphone_messages_received": 5,
			"megaphone_messages_read": 1, "megaphone_messages_unroutable": 2, "megaphone_messages_lost": 2,
			"megaphone_channel_duration": 1200,
		}; !maps.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if want := map[float64]uint64{
			80: 0, 160: 1, 320: 1, 640: 1, 1280: 2, 2560: 2, 5120: 2, 10240: 2, 20480: 2,
		}; !maps.Equal(buckets, want) {
			t.Errorf("the buckets are %v, want %v", buckets, want)
		}
	})
}

// TestMetricsOfTheOriginalAreDocumented compares the page with the code.
func TestMetricsOfTheOriginalAreDocumented(t *testing.T) {
	text := readFile(t, "docs/metrics.md")
	descs := make(chan *prometheus.Desc, 100)
	originalCollector{}.Describe(descs)
	close(descs)
	for desc := range descs {
		name := strings.Split(desc.String(), `"`)[1]
		if !strings.Contains(text, "\n| `"+name+"` |") {
			t.Errorf("docs/metrics.md lacks %s", name)
		}
	}
}

func TestOriginalNamesOfAnotherModuleAreRefused(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "megaphone_messages_lost", Help: "Of another module."}))
	b := memory.New()
	defer b.Close()
	err := New(b, testEndpoints, testLimits).RegisterOriginal(registry)
	if err == nil || !strings.Contains(err.Error(), "metrics_compat: another module has a metric of that name") {
		t.Error(err)
	}
}

// TestBucketsThatABrokerLacks: a histogram of another Broker may have other bounds.
func TestBucketsThatABrokerLacks(t *testing.T) {
	h := broker.Histogram{Bounds: []time.Duration{time.Minute, 160 * time.Second}, Cumulative: []uint64{1, 3}, Count: 4}
	if got := bucketsOf(h, originalBounds); !maps.Equal(got, map[float64]uint64{160: 3}) {
		t.Errorf("the buckets are %v", slices.Sorted(maps.Keys(got)))
	}
}
