package metrics

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A compatCollector shows some of our metrics under other names too. Dashboards and alerts know these names from the server
// that this one replaces. If our metric has labels, the old one is the sum over them.
type compatCollector struct {
	ours *prometheus.Registry // our own metrics only
	old  []oldMetric
}

// An oldMetric is one of our metrics under its old name.
type oldMetric struct {
	desc  *prometheus.Desc
	shows string // the name of our metric
	kind  dto.MetricType
}

// metricTypes has the types of the metrics that can be shown under another name, by their full names. We cannot learn them
// by collecting, since a counter with labels is not collected before it has a value.
var metricTypes = fullNames(map[dto.MetricType][]string{
	dto.MetricType_COUNTER: {
		"channels_created_total", "channels_deleted_total", "direct_mismatches_total", "direct_samples_total",
		"limit_refusals_total", "messages_accepted_total", "messages_appended_total", "messages_published_total",
		"messages_redelivered_total", "messages_refused_total", "messages_repeated_total", "messages_replaced_total",
		"messages_sent_total", "messages_settled_total", "messages_skipped_total", "messages_undelivered_total",
		"messages_unroutable_total", "panics_total",
		"requests_refused_total",
		"store_failures_total", "store_fenced_total", "store_lost_pushes_total", "store_reconnects_total", "store_resyncs_total",
		"store_round_trips_total", "webhook_delivered_total", "webhook_failures_total", "webhook_lost_total",
	},
	dto.MetricType_GAUGE: {
		"buffered_bytes", "buffered_limit_bytes", "changed_internals", "channels", "channels_limit", "channels_read", "detached_readers",
		"direct_connections", "held_bytes", "held_producers", "messages_in_flight", "messages_pending", "readers", "readers_limit",
		"storage_up", "store_nodes", "store_queue", "topic_kept_bytes", "topic_members", "topics", "webhook_queue",
	},
	dto.MetricType_HISTOGRAM: {
		"channel_life_seconds", "delivery_delay_seconds", "publish_wait_seconds", "read_duration_seconds", "store_latency_seconds",
	},
})

func fullNames(shortNames map[dto.MetricType][]string) map[string]dto.MetricType {
	types := map[string]dto.MetricType{}
	for kind, names := range shortNames {
		for _, name := range names {
			types[Name(name)] = kind
		}
	}
	return types
}

// registerCompat registers a collector that shows our metrics under their old names.
func registerCompat(registry prometheus.Registerer, ours []prometheus.Collector, old map[string]string) error {
	if err := checkCompat(old); err != nil {
		return err
	}
	c := &compatCollector{ours: prometheus.NewRegistry()}
	for _, collector := range ours {
		if err := c.ours.Register(collector); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		metric := old[name]
		c.old = append(c.old, oldMetric{
			prometheus.NewDesc(name, "The same as "+metric+", whatever its labels.", nil, nil), metric, metricTypes[metric],
		})
	}
	if err := registry.Register(c); err != nil {
		return fmt.Errorf("metrics_compat: another module has a metric of that name, so leave the name out: %w", err)
	}
	return nil
}

// Describe implements [prometheus.Collector].
func (c *compatCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, o := range c.old {
		descs <- o.desc
	}
}

// Collect implements [prometheus.Collector]. All that it shows is from one moment.
func (c *compatCollector) Collect(metrics chan<- prometheus.Metric) {
	defer guard.Recover(guard.Broker) // Prometheus calls this in a goroutine of its own
	families, err := c.ours.Gather()
	collected := map[string][]*dto.Metric{}
	for _, f := range families {
		collected[f.GetName()] = f.GetMetric()
	}
	for _, o := range c.old {
		if err != nil {
			metrics <- prometheus.NewInvalidMetric(o.desc, err)
			continue
		}
		metrics <- o.sum(collected[o.shows])
	}
}

// sum returns the metric that is the sum of parts, which differ in their labels.
func (o oldMetric) sum(parts []*dto.Metric) prometheus.Metric {
	var value, sum float64
	var count uint64
	buckets := map[float64]uint64{}
	for _, m := range parts {
		value += m.GetCounter().GetValue() + m.GetGauge().GetValue() // one of them is zero
		h := m.GetHistogram()
		count += h.GetSampleCount()
		sum += h.GetSampleSum()
		for _, b := range h.GetBucket() {
			buckets[b.GetUpperBound()] += b.GetCumulativeCount()
		}
	}
	switch o.kind {
	case dto.MetricType_HISTOGRAM:
		return prometheus.MustNewConstHistogram(o.desc, count, sum, buckets)
	case dto.MetricType_COUNTER:
		return prometheus.MustNewConstMetric(o.desc, prometheus.CounterValue, value)
	default:
		return prometheus.MustNewConstMetric(o.desc, prometheus.GaugeValue, value)
	}
}

// checkCompat checks a whole setting metrics_compat.
func checkCompat(old map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if err := CheckOldName(name, old[name], old); err != nil {
			return fmt.Errorf("metrics_compat: %s: %w", name, err)
		}
	}
	return nil
}

var (
	// metricNamePattern matches the names that every version of Prometheus accepts.
	metricNamePattern = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	// ownPrefixes are the prefixes of Caddy's metrics, including ours. Caddy panics if one of their names is taken.
	ownPrefixes = []string{"caddy_", "go_", "process_", "promhttp_"}
	// histogramSuffixes are the suffixes of the series of a histogram.
	histogramSuffixes = []string{"_bucket", "_count", "_sum"}
)

// CheckOldName says what is wrong with an old name that should show a metric of ours. The setting metrics_compat is a map
// from old names to our names; others is that map, with or without this name. CheckOldName returns nil if the name is
// valid.
func CheckOldName(name, metric string, others map[string]string) error {
	kind, ok := metricTypes[metric]
	begins := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
	ends := func(suffix string) bool { return strings.HasSuffix(name, suffix) }
	switch {
	case !metricNamePattern.MatchString(name):
		return errors.New("the old name is not a valid metric name: use letters, digits, _ and :, and no digit first")
	case slices.ContainsFunc(ownPrefixes, begins):
		return fmt.Errorf("names that begin with %s belong to Caddy: write the old name first, then the metric that it shows",
			strings.Join(ownPrefixes, ", "))
	case !ok:
		return fmt.Errorf("there is no metric %q: name one of %s", metric, strings.Join(slices.Sorted(maps.Keys(metricTypes)), ", "))
	case kind == dto.MetricType_HISTOGRAM && slices.ContainsFunc(histogramSuffixes, ends):
		return fmt.Errorf("%s is a histogram, and Prometheus adds _bucket, _count and _sum to its name: "+
			"write the old name without them", metric)
	}
	for other, shown := range others {
		for _, suffix := range histogramSuffixes {
			if name == other+suffix && metricTypes[shown] == dto.MetricType_HISTOGRAM {
				return errSeriesTaken(name, other)
			}
			if other == name+suffix && kind == dto.MetricType_HISTOGRAM {
				return errSeriesTaken(other, name)
			}
		}
	}
	return nil
}

func errSeriesTaken(name, histogram string) error {
	return fmt.Errorf("the histogram %s has a series %s: leave one of the two out", histogram, name)
}
