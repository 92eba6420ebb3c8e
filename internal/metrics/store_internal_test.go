package metrics

import (
	"errors"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
)

// storing is a Broker that claims to have a store.
type storing struct{ *memory.Broker }

var testLatency = broker.Histogram{Bounds: []time.Duration{time.Millisecond}, Cumulative: []uint64{2}, Count: 3, Sum: time.Second}

func (storing) StoreStats() broker.StoreStats {
	return broker.StoreStats{
		RoundTrips: 3, Failures: 4, Latency: testLatency, Queued: 5, Reconnects: 6, Resyncs: 7, Fenced: 8, LostPushes: 9,
		Nodes: make([]broker.StoreNode, 10),
	}
}

func (storing) Healthy() error { return errors.New("the store cannot be reached") }

func TestMetricsOfAStore(t *testing.T) {
	families := gathered(t, exercised(t), nil)
	for name, want := range map[string]float64{
		"store_round_trips_total": 3, "store_failures_total": 4, "store_queue": 5, "store_reconnects_total": 6, "store_resyncs_total": 7,
		"store_fenced_total": 8, "store_lost_pushes_total": 9, "store_nodes": 10, "storage_up": 0,
	} {
		m := families[Name(name)].GetMetric()
		if len(m) != 1 || m[0].GetCounter().GetValue()+m[0].GetGauge().GetValue() != want {
			t.Errorf("%s is %v, want %v", name, m, want)
		}
	}
	h := families[Name("store_latency_seconds")].GetMetric()[0].GetHistogram()
	if h.GetSampleCount() != 3 || h.GetSampleSum() != 1 || h.GetBucket()[0].GetCumulativeCount() != 2 {
		t.Errorf("the latency is %v", h)
	}
}

// TestWithoutAStoreItsMetricsAreMissing: the Broker in memory shows no store.
func TestWithoutAStoreItsMetricsAreMissing(t *testing.T) {
	b := memory.New()
	defer b.Close()
	if f := gathered(t, New(b, testEndpoints, testLimits), nil)[Name("store_nodes")]; f != nil {
		t.Errorf("the Broker in memory has %v", f)
	}
}
