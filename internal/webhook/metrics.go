package webhook

import "github.com/prometheus/client_golang/prometheus"

// Metrics count the events of all webhooks, by the event's name.
type Metrics struct {
	Queued    *prometheus.GaugeVec
	Delivered *prometheus.CounterVec
	Lost      *prometheus.CounterVec
	Failures  *prometheus.CounterVec
}

// NewMetrics returns the metrics. The function gives each its full name.
func NewMetrics(name func(string) string) *Metrics {
	labels := []string{"event"}
	counter := func(short, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name(short), Help: help}, labels)
	}
	return &Metrics{
		Queued: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: name("webhook_queue"), Help: "Announcements that wait for a webhook's receiver.",
		}, labels),
		Delivered: counter("webhook_delivered_total", "Announcements that a webhook's receiver has accepted."),
		Lost:      counter("webhook_lost_total", "Announcements that were given up."),
		Failures:  counter("webhook_failures_total", "Requests to a webhook's receiver that failed, most of them to be repeated."),
	}
}

// Collectors returns what Prometheus collects.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.Queued, m.Delivered, m.Lost, m.Failures}
}
