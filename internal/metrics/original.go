package metrics

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// An originalCollector shows what a Broker counts as the original Megaphone does: under its names, in its units, without
// labels.
type originalCollector struct{ broker broker.Broker }

// originalCounters are the counters of the original Megaphone. A message to three channels counts three times in each.
var originalCounters = []brokerMetric{
	originalCounter("megaphone_channel_created", "Channels that were created.", func(s *broker.Stats) uint64 { return s.Created }),
	originalCounter("megaphone_channel_disposed", "Channels that were deleted, for whatever reason.", (*broker.Stats).AllDeleted),
	// Received are messages to channels that exist, before anybody knows whether there is room for them.
	originalCounter("megaphone_messages_received", "Messages that were written to a channel, refused ones included.",
		(*broker.Stats).Received),
	// Read are messages that a reader has taken. A message that is sent again is not read again.
	originalCounter("megaphone_messages_read", "Messages that a reader has taken, each counted once.",
		func(s *broker.Stats) uint64 { return s.DeliveryDelay.Count }),
	// Unroutable are writes to a channel that does not exist, or no longer exists when there would be room.
	originalCounter("megaphone_messages_unroutable", "Messages that were written to a channel that does not exist.",
		func(s *broker.Stats) uint64 { return s.Unroutable }),
	// Lost are messages that a channel held at its end: nobody has read them, or nobody knows whether they arrived.
	originalCounter("megaphone_messages_lost", "Messages that were undelivered at the end of their channel.",
		(*broker.Stats).AllUndelivered),
}

func originalCounter(name, help string, of func(*broker.Stats) uint64) brokerMetric {
	return brokerMetric{
		prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue,
		func(s *broker.Stats) float64 { return float64(of(s)) },
	}
}

var (
	originalDuration = prometheus.NewDesc("megaphone_channel_duration", "How long channels lived that were deleted, in seconds.", nil, nil)
	// originalBounds are the upper bounds of its buckets, in seconds.
	originalBounds = []float64{80, 160, 320, 640, 1280, 2560, 5120, 10240, 20480}
)

// RegisterOriginal registers metrics with the names of the original Megaphone. It fails if another module has a metric of
// the same name.
func (m *Metrics) RegisterOriginal(registry prometheus.Registerer) error {
	if err := registry.Register(originalCollector{m.broker}); err != nil {
		return fmt.Errorf("metrics_compat: another module has a metric of that name, so give it a block with the other names: %w", err)
	}
	return nil
}

// Describe implements [prometheus.Collector].
func (originalCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, c := range originalCounters {
		descs <- c.desc
	}
	descs <- originalDuration
}

// Collect implements [prometheus.Collector]. All that it shows is from one moment.
func (c originalCollector) Collect(metrics chan<- prometheus.Metric) {
	defer guard.Recover(guard.Broker) // Prometheus calls this in a goroutine of its own
	s := broker.StatsOf(c.broker)
	for _, counter := range originalCounters {
		metrics <- prometheus.MustNewConstMetric(counter.desc, counter.kind, counter.of(&s))
	}
	metrics <- prometheus.MustNewConstHistogram(originalDuration, s.ChannelLife.Count, s.ChannelLife.Sum.Seconds(),
		bucketsOf(s.ChannelLife, originalBounds))
}

// bucketsOf returns the buckets of a histogram for these bounds, in seconds, without those that the histogram lacks.
func bucketsOf(h broker.Histogram, bounds []float64) map[float64]uint64 {
	all := make(map[time.Duration]uint64, len(h.Bounds))
	for i, bound := range h.Bounds {
		all[bound] = h.Cumulative[i]
	}
	buckets := make(map[float64]uint64, len(bounds))
	for _, bound := range bounds {
		if n, ok := all[time.Duration(bound*float64(time.Second))]; ok {
			buckets[bound] = n
		}
	}
	return buckets
}
