package metrics

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// Metrics is what Prometheus is told: the totals of the registry, and what the handlers count. Like the channels
// it outlives configurations, so that no counter starts anew with a reload. docs/metrics.md describes each.
//
// No label has a value that clients can choose.
type Metrics struct {
	readers      [transport.KindCount]prometheus.Gauge
	readDuration [transport.KindCount]prometheus.Observer
	Detached     prometheus.Gauge
	Direct       prometheus.Gauge
	Refused      *prometheus.CounterVec // by endpoint and code
	LimitHits    map[string]prometheus.Counter

	Collectors []prometheus.Collector
}

const (
	metricsNamespace = "caddy"
	metricsSubsystem = "megaphone"
)

func Name(name string) string {
	return prometheus.BuildFQName(metricsNamespace, metricsSubsystem, name)
}

// New returns the metrics of a Broker. It is given the names of all endpoints and limits, and collectors of other
// packages to show as well.
func New(b broker.Broker, endpoints, limits []string, more ...prometheus.Collector) *Metrics {
	readers := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: Name("readers"),
		Help: "Reads that are open now.",
	}, []string{"transport"})
	readDuration := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    Name("read_duration_seconds"),
		Help:    "How long reads lasted.",
		Buckets: []float64{0.01, 0.1, 1, 5, 10, 15, 20, 30, 60, 300, 600, 1800, 3600},
	}, []string{"transport"})
	limitHits := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: Name("limit_refusals_total"),
		Help: "Requests, channels of a batch, and lines of an ingest, that were refused because a limit was reached, by the setting's name.",
	}, []string{"limit"})
	m := &Metrics{
		Detached: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: Name("detached_readers"),
			Help: "Reads that are open and do without their handler.",
		}),
		Direct: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: Name("direct_connections"),
			Help: "Connections of producers whose writes are served directly.",
		}),
		Refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: Name("requests_refused_total"),
			Help: "Requests that were answered with an error.",
		}, []string{"endpoint", "code"}),
		LimitHits: map[string]prometheus.Counter{},
	}
	for kind, name := range transport.KindNames {
		m.readers[kind] = readers.WithLabelValues(name)
		m.readDuration[kind] = readDuration.WithLabelValues(name)
	}
	for _, name := range endpoints {
		m.Refused.WithLabelValues(name, httpjson.CodeFault) // alerts see no increase in what comes with its first value
	}
	for _, name := range limits {
		m.LimitHits[name] = limitHits.WithLabelValues(name)
	}
	m.Collectors = []prometheus.Collector{
		readers, readDuration, limitHits, m.Refused, m.Detached, m.Direct,
	}
	m.Collectors = append(m.Collectors, more...)
	if b, ok := b.(broker.Statser); ok {
		m.Collectors = append(m.Collectors, brokerCollector{b})
	}
	return m
}

// Register makes a configuration's metrics endpoint show the metrics, and its limits; and again under the old names,
// if there are any.
func (m *Metrics) Register(registry prometheus.Registerer, l broker.Limits, old map[string]string) error {
	ours := append(limitGauges(l), m.Collectors...)
	for _, c := range ours {
		err := registry.Register(c)
		if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok && already.ExistingCollector == c {
			continue
		}
		if err != nil {
			return err
		}
	}
	if len(old) == 0 {
		return nil
	}
	return registerCompat(registry, ours, old)
}

// limitGauges show a configuration's limits, so that alerts can compare with them.
func limitGauges(l broker.Limits) []prometheus.Collector {
	limit := func(name, help string, value float64) prometheus.Collector {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: Name(name), Help: help})
		g.Set(value)
		return g
	}
	return []prometheus.Collector{
		limit("channels_limit", "The setting max_channels.", float64(l.MaxChannels)),
		limit("readers_limit", "The setting max_readers.", float64(l.MaxReaders)),
		limit("buffered_limit_bytes", "The setting max_memory.", float64(l.MaxMemory)),
	}
}

// Reading counts a read from now on; the returned function counts its end.
func (m *Metrics) Reading(kind transport.Kind) (ended func()) {
	start := time.Now()
	m.readers[kind].Inc()
	return func() {
		m.readers[kind].Dec()
		m.readDuration[kind].Observe(time.Since(start).Seconds())
	}
}

// A brokerCollector collects what a Broker counts.
type brokerCollector struct{ broker broker.Statser }

// A brokerMetric is a metric that shows one of the totals.
type brokerMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*broker.Stats) float64
}

func gauge(name, help string, of func(*broker.Stats) float64) brokerMetric {
	return brokerMetric{prometheus.NewDesc(Name(name), help, nil, nil), prometheus.GaugeValue, of}
}

func counter(name, help string, of func(*broker.Stats) uint64) brokerMetric {
	return brokerMetric{
		prometheus.NewDesc(Name(name), help, nil, nil), prometheus.CounterValue,
		func(t *broker.Stats) float64 { return float64(of(t)) },
	}
}

var brokerMetrics = []brokerMetric{
	gauge("channels", "Channels that there are now.", func(t *broker.Stats) float64 { return float64(t.Channels) }),
	gauge("channels_read", "Channels that are being read now.", func(t *broker.Stats) float64 { return float64(t.Readers) }),
	gauge("messages_pending", "Messages that wait to be sent.", func(t *broker.Stats) float64 { return float64(t.Pending) }),
	gauge("messages_in_flight", "Messages that were sent and are kept to be sent again.",
		func(t *broker.Stats) float64 { return float64(t.InFlight) }),
	gauge("buffered_bytes", "Memory that messages in channels take, each counted once.",
		func(t *broker.Stats) float64 { return float64(t.BufferedBytes) }),
	gauge("held_bytes", "Memory that messages take whose producers wait for room.",
		func(t *broker.Stats) float64 { return float64(t.HeldBytes) }),
	gauge("held_producers", "Writes to a channel that wait for room.", func(t *broker.Stats) float64 { return float64(t.HeldProducers) }),
	counter("messages_accepted_total", "Messages that a channel has taken.", func(t *broker.Stats) uint64 { return t.Accepted }),
	counter("messages_repeated_total", "Messages that were dropped because their channel had them already, by their key.",
		func(t *broker.Stats) uint64 { return t.Duplicates }),
	counter("messages_sent_total", "Messages that a reader was sent, repeats included.", func(t *broker.Stats) uint64 { return t.Sent }),
	counter("messages_redelivered_total", "Messages that a reader was sent again.", func(t *broker.Stats) uint64 { return t.Redelivered }),
	counter("messages_settled_total", "Messages that were let go as received.", func(t *broker.Stats) uint64 { return t.Settled }),
	counter("channels_created_total", "Channels that were created.", func(t *broker.Stats) uint64 { return t.Created }),
}

var (
	undeliveredDesc = prometheus.NewDesc(Name("messages_undelivered_total"),
		"Messages that were deleted with their channel.", []string{"reason"}, nil)
	deletedDesc = prometheus.NewDesc(Name("channels_deleted_total"),
		"Channels that were deleted.", []string{"reason"}, nil)
	messagesRefusedDesc = prometheus.NewDesc(Name("messages_refused_total"),
		"Messages that were refused because there was no room for them in time: in their channel, or in memory.", []string{"reason"}, nil)
	publishWaitDesc = prometheus.NewDesc(Name("publish_wait_seconds"),
		"How long accepted messages waited for room.", nil, nil)
	deliveryDelayDesc = prometheus.NewDesc(Name("delivery_delay_seconds"),
		"The time from a message's timestamp until it was first sent.", nil, nil)
	channelLifeDesc = prometheus.NewDesc(Name("channel_life_seconds"),
		"How long channels lived that were deleted.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (brokerCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, m := range brokerMetrics {
		descs <- m.desc
	}
	for _, d := range []*prometheus.Desc{
		undeliveredDesc, deletedDesc, messagesRefusedDesc, publishWaitDesc, deliveryDelayDesc, channelLifeDesc,
	} {
		descs <- d
	}
}

// Collect implements [prometheus.Collector].
func (c brokerCollector) Collect(metrics chan<- prometheus.Metric) {
	t := c.broker.Stats()
	for _, m := range brokerMetrics {
		metrics <- prometheus.MustNewConstMetric(m.desc, m.kind, m.of(&t))
	}
	count := func(desc *prometheus.Desc, n uint64, label string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), label)
	}
	for _, why := range broker.EndReasons {
		count(undeliveredDesc, t.Undelivered[why], why.String())
		count(deletedDesc, t.Deleted[why], why.String())
	}
	count(messagesRefusedDesc, t.RefusedFull, "channel_full")
	count(messagesRefusedDesc, t.RefusedMemory, "memory_full")
	metrics <- constHistogram(publishWaitDesc, t.PublishWait)
	metrics <- constHistogram(deliveryDelayDesc, t.DeliveryDelay)
	metrics <- constHistogram(channelLifeDesc, t.ChannelLife)
}

func constHistogram(desc *prometheus.Desc, h broker.Histogram) prometheus.Metric {
	buckets := make(map[float64]uint64, len(h.Bounds))
	for i, bound := range h.Bounds {
		buckets[bound.Seconds()] = h.Cumulative[i]
	}
	return prometheus.MustNewConstHistogram(desc, h.Count, h.Sum.Seconds(), buckets)
}
