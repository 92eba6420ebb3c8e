package webhook

import "github.com/prometheus/client_golang/prometheus"

// Metrics count what happens to the events of all webhooks, by the event's name. Only the senders change them.
type Metrics struct {
	// Queued is how many events wait in queues.
	Queued *prometheus.GaugeVec
	// Delivered counts the events that receivers have accepted, and Lost those that were given up.
	Delivered, Lost *prometheus.CounterVec
	// Failures counts the requests that failed, including those that are repeated.
	Failures *prometheus.CounterVec
}

// NewMetrics returns the metrics. name returns the full name of a metric.
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

// Collectors returns the collectors of all metrics, for Prometheus.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.Queued, m.Delivered, m.Lost, m.Failures}
}
