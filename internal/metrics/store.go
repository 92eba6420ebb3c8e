package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A storeCollector collects what a Broker counts of its store.
type storeCollector struct{ broker broker.StoreStatser }

// A storeMetric shows one value of the statistics of a store.
type storeMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*broker.StoreStats) float64
}

func storeCounter(name, help string, of func(*broker.StoreStats) uint64) storeMetric {
	return storeMetric{
		prometheus.NewDesc(Name(name), help, nil, nil), prometheus.CounterValue,
		func(s *broker.StoreStats) float64 { return float64(of(s)) },
	}
}

func storeGauge(name, help string, of func(*broker.StoreStats) int) storeMetric {
	return storeMetric{
		prometheus.NewDesc(Name(name), help, nil, nil), prometheus.GaugeValue,
		func(s *broker.StoreStats) float64 { return float64(of(s)) },
	}
}

// storeMetrics are the metrics of a store that [broker.StoreStats] has. The others follow below.
var storeMetrics = []storeMetric{
	storeCounter("store_round_trips_total", "Calls to the store.", func(s *broker.StoreStats) uint64 { return s.RoundTrips }),
	storeCounter("store_failures_total", "Calls that the store did not answer or refused.",
		func(s *broker.StoreStats) uint64 { return s.Failures }),
	storeCounter("store_reconnects_total", "How often the connection for pushed messages was made again.",
		func(s *broker.StoreStats) uint64 { return s.Reconnects }),
	storeCounter("store_resyncs_total", "How often a reader has asked the store where it was, because something may be lost.",
		func(s *broker.StoreStats) uint64 { return s.Resyncs }),
	storeCounter("store_fenced_total", "Calls that the store refused, because another reader has the channel.",
		func(s *broker.StoreStats) uint64 { return s.Fenced }),
	storeCounter("store_lost_pushes_total", "Pushed messages that did not come and were fetched.",
		func(s *broker.StoreStats) uint64 { return s.LostPushes }),
	storeGauge("store_queue", "Writes that wait until they are sent to the store.", func(s *broker.StoreStats) int { return s.Queued }),
	storeGauge("store_nodes", "Servers that share the store, this one included.", func(s *broker.StoreStats) int { return len(s.Nodes) }),
}

var storeLatencyDesc = prometheus.NewDesc(Name("store_latency_seconds"), "How long calls to the store took.", nil, nil)

// Describe implements [prometheus.Collector].
func (storeCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, m := range storeMetrics {
		descs <- m.desc
	}
	descs <- storeLatencyDesc
}

// Collect implements [prometheus.Collector].
func (c storeCollector) Collect(metrics chan<- prometheus.Metric) {
	defer guard.Recover(guard.Broker) // Prometheus calls this in a goroutine of its own
	s := c.broker.StoreStats()
	for _, m := range storeMetrics {
		metrics <- prometheus.MustNewConstMetric(m.desc, m.kind, m.of(&s))
	}
	metrics <- constHistogram(storeLatencyDesc, s.Latency)
}
