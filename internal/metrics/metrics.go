// Package metrics shows Prometheus what the server does: what the Broker counts, and what handlers count. It also shows
// metrics under the names that the replaced server had (compat.go). docs/metrics.md describes each metric.
//
// The package knows nothing of endpoints and settings: New gets their names.
package metrics

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// Metrics are the metrics of a Broker and of the handlers that use it. Like the channels, they outlive configurations, so
// that no counter starts anew with a reload. No label has a value that clients can choose. Any number of goroutines may
// use Metrics.
type Metrics struct {
	// Detached is the number of reads that do without their handler, and Direct the number of producers' connections that
	// are served directly. Whoever begins or ends one changes the gauge. Do not replace the gauges.
	Detached, Direct prometheus.Gauge
	// DirectSamples counts the writes that could have been served directly and went through net/http for comparison, and
	// DirectMismatches those of them that came out otherwise. Do not replace the counters.
	DirectSamples, DirectMismatches prometheus.Counter

	readers       [transport.KindCount]prometheus.Gauge
	readDuration  [transport.KindCount]prometheus.Observer
	refusals      *prometheus.CounterVec // by endpoint and code
	limitRefusals map[string]prometheus.Counter
	collectors    []prometheus.Collector
	broker        broker.Broker
}

// Name returns the full name of a metric, such as caddy_megaphone_channels for channels.
func Name(name string) string { return prometheus.BuildFQName("caddy", "megaphone", name) }

// New returns the metrics of a Broker. If the Broker is not a [broker.Statser], they lack what a Broker counts, and if it is
// not a [broker.StoreStatser], what concerns its store. endpoints are the names of all endpoints. limits are the names that
// [Metrics.CountLimit] may be called with. others are collectors of other packages, which are shown too.
func New(b broker.Broker, endpoints, limits []string, others ...prometheus.Collector) *Metrics {
	readers := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: Name("readers"),
		Help: "Reads that are open now.",
	}, []string{"transport"})
	readDuration := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    Name("read_duration_seconds"),
		Help:    "How long reads lasted.",
		Buckets: []float64{0.01, 0.1, 1, 5, 10, 15, 20, 30, 60, 300, 600, 1800, 3600},
	}, []string{"transport"})
	limitRefusals := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: Name("limit_refusals_total"),
		Help: "Requests, channels of a batch, and lines of an ingest, that were refused because a limit was reached, " +
			"by the setting's name.",
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
		DirectSamples: prometheus.NewCounter(prometheus.CounterOpts{
			Name: Name("direct_samples_total"),
			Help: "Writes that could have been served directly, and went through net/http for comparison.",
		}),
		DirectMismatches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: Name("direct_mismatches_total"),
			Help: "Such writes that net/http and the handlers have made something else of.",
		}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: Name("requests_refused_total"),
			Help: "Requests that were answered with an error.",
		}, []string{"endpoint", "code"}),
		limitRefusals: map[string]prometheus.Counter{},
		broker:        b,
	}
	for kind, name := range transport.KindNames {
		m.readers[kind] = readers.WithLabelValues(name)
		m.readDuration[kind] = readDuration.WithLabelValues(name)
	}
	for _, name := range endpoints {
		// Prometheus sees no increase if a counter appears with its first value, so faults begin at zero.
		m.refusals.WithLabelValues(name, httpjson.CodeFault)
	}
	for _, name := range limits {
		m.limitRefusals[name] = limitRefusals.WithLabelValues(name)
	}
	m.collectors = []prometheus.Collector{
		readers, readDuration, limitRefusals, m.refusals, panics, m.Detached, m.Direct, m.DirectSamples, m.DirectMismatches,
	}
	m.collectors = append(append(m.collectors, brokerCollectors(b)...), others...)
	return m
}

// brokerCollectors returns what collects the metrics of a Broker.
func brokerCollectors(b broker.Broker) []prometheus.Collector {
	collectors := []prometheus.Collector{storageUp(b)}
	if b, ok := b.(broker.Statser); ok {
		collectors = append(collectors, brokerCollector{b})
	}
	if b, ok := b.(broker.StoreStatser); ok {
		collectors = append(collectors, storeCollector{b})
	}
	return collectors
}

// storageUp returns a gauge that is 0 while the Broker takes no writes.
func storageUp(b broker.Broker) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: Name("storage_up"),
		Help: "1, or 0 while writes are refused because the storage of the broker takes none.",
	}, func() (up float64) {
		defer guard.Recover(guard.Broker)
		if b, ok := b.(broker.HealthChecker); ok && b.Healthy() != nil {
			return 0
		}
		return 1
	})
}

// Register registers the metrics and the limits of a configuration with the configuration's registry. old has the metrics
// that are shown under another name too, by that name: see [CheckOldName]. Register fails if an old name is not valid, or
// if another module has a metric of the same name.
func (m *Metrics) Register(registry prometheus.Registerer, l broker.Limits, old map[string]string) error {
	ours := append(limitGauges(l), m.collectors...)
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

// limitGauges returns gauges that show the limits of a configuration, so that alerts can compare with them.
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

// CountRead counts the beginning of a read. The caller must call the returned function once, at the end of the read.
func (m *Metrics) CountRead(kind transport.Kind) (ended func()) {
	start := time.Now()
	m.readers[kind].Inc()
	return func() {
		m.readers[kind].Dec()
		m.readDuration[kind].Observe(time.Since(start).Seconds())
	}
}

// panics counts for the whole process, since a panic may concern no Broker, or all.
var panics = func() *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: Name("panics_total"),
		Help: "Panics that the process has survived, by the place.",
	}, []string{"place"})
	for _, place := range guard.Places() {
		c.WithLabelValues(place.String()) // as with the refusals, so that the first panic is an increase
	}
	return c
}()

// CountPanic counts a panic that was recovered in a place.
func CountPanic(place guard.Place) { panics.WithLabelValues(place.String()).Inc() }

// CountRefusal counts a request to an endpoint that was answered with an error code.
func (m *Metrics) CountRefusal(endpoint, code string) {
	m.refusals.WithLabelValues(endpoint, code).Inc()
}

// CountLimit counts n requests, channels of a batch or lines of an ingest that were refused because a limit was reached.
// limit must be one of the names that [New] got.
func (m *Metrics) CountLimit(limit string, n int) { m.limitRefusals[limit].Add(float64(n)) }

// A brokerCollector collects what a Broker counts.
type brokerCollector struct{ broker broker.Statser }

// A brokerMetric shows one value of the statistics of a Broker.
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
		func(s *broker.Stats) float64 { return float64(of(s)) },
	}
}

// brokerMetrics are the metrics without labels. Metrics with labels and histograms follow below.
var brokerMetrics = []brokerMetric{
	gauge("channels", "Channels that there are now.", func(s *broker.Stats) float64 { return float64(s.Channels) }),
	gauge("channels_read", "Channels that are being read now.", func(s *broker.Stats) float64 { return float64(s.Readers) }),
	gauge("messages_pending", "Messages that wait to be sent.", func(s *broker.Stats) float64 { return float64(s.Pending) }),
	gauge("messages_in_flight", "Messages that were sent and are kept to be sent again.",
		func(s *broker.Stats) float64 { return float64(s.InFlight) }),
	gauge("buffered_bytes", "Memory that messages in channels take, each counted once.",
		func(s *broker.Stats) float64 { return float64(s.BufferedBytes) }),
	gauge("held_bytes", "Memory that messages take whose producers wait for room.",
		func(s *broker.Stats) float64 { return float64(s.HeldBytes) }),
	gauge("held_producers", "Writes to a channel that wait for room.",
		func(s *broker.Stats) float64 { return float64(s.HeldProducers) }),
	counter("messages_accepted_total", "Messages that a channel has taken.", func(s *broker.Stats) uint64 { return s.Accepted }),
	counter("messages_repeated_total", "Messages that were dropped because their channel had them already, by their key.",
		func(s *broker.Stats) uint64 { return s.Duplicates }),
	counter("messages_replaced_total", "Accepted messages that took the place of the one before, which was not sent yet.",
		func(s *broker.Stats) uint64 { return s.Replaced }),
	counter("messages_appended_total", "Accepted messages that became one with the one before, which was not sent yet.",
		func(s *broker.Stats) uint64 { return s.Appended }),
	counter("messages_unroutable_total", "Messages that were written to a channel that does not exist.",
		func(s *broker.Stats) uint64 { return s.Unroutable }),
	counter("messages_sent_total", "Messages that a reader was sent, repeats included.",
		func(s *broker.Stats) uint64 { return s.Sent }),
	counter("messages_redelivered_total", "Messages that a reader was sent again.",
		func(s *broker.Stats) uint64 { return s.Redelivered }),
	counter("messages_settled_total", "Messages that were let go as received.", func(s *broker.Stats) uint64 { return s.Settled }),
	gauge("topics", "Topics that there are now.", func(s *broker.Stats) float64 { return float64(s.Topics) }),
	gauge("topic_members", "Members that all topics have together.", func(s *broker.Stats) float64 { return float64(s.Memberships) }),
	gauge("topic_kept_bytes", "Memory that the messages take that topics keep.",
		func(s *broker.Stats) float64 { return float64(s.KeptBytes) }),
	counter("messages_published_total", "Messages that were published to a topic.", func(s *broker.Stats) uint64 { return s.Published }),
	counter("messages_skipped_total", "Published messages that a member has missed because it had no room, counted for each member.",
		func(s *broker.Stats) uint64 { return s.Skipped }),
	counter("channels_created_total", "Channels that were created.", func(s *broker.Stats) uint64 { return s.Created }),
}

var (
	undeliveredDesc = prometheus.NewDesc(Name("messages_undelivered_total"),
		"Messages that were deleted with their channel.", []string{"reason"}, nil)
	deletedDesc = prometheus.NewDesc(Name("channels_deleted_total"),
		"Channels that were deleted.", []string{"reason"}, nil)
	messagesRefusedDesc = prometheus.NewDesc(Name("messages_refused_total"),
		"Messages that were refused because there was no room for them in time: in their channel, or in memory.",
		[]string{"reason"}, nil)
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
	defer guard.Recover(guard.Broker) // Prometheus calls this in a goroutine of its own
	s := c.broker.Stats()
	for _, m := range brokerMetrics {
		metrics <- prometheus.MustNewConstMetric(m.desc, m.kind, m.of(&s))
	}
	count := func(desc *prometheus.Desc, n uint64, label string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), label)
	}
	for _, reason := range broker.EndReasons {
		count(undeliveredDesc, s.Undelivered[reason], reason.String())
		count(deletedDesc, s.Deleted[reason], reason.String())
	}
	count(messagesRefusedDesc, s.RefusedFull, "channel_full")
	count(messagesRefusedDesc, s.RefusedMemory, "memory_full")
	metrics <- constHistogram(publishWaitDesc, s.PublishWait)
	metrics <- constHistogram(deliveryDelayDesc, s.DeliveryDelay)
	metrics <- constHistogram(channelLifeDesc, s.ChannelLife)
}

func constHistogram(desc *prometheus.Desc, h broker.Histogram) prometheus.Metric {
	buckets := make(map[float64]uint64, len(h.Bounds))
	for i, bound := range h.Bounds {
		buckets[bound.Seconds()] = h.Cumulative[i]
	}
	return prometheus.MustNewConstHistogram(desc, h.Count, h.Sum.Seconds(), buckets)
}
