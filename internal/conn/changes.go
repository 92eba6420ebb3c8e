package conn

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// changes has, for each type that bare.go knows, whether it was seen to be different.
var changes = func() map[string]*atomic.Bool {
	m := map[string]*atomic.Bool{}
	for _, internal := range internals {
		m[internal] = new(atomic.Bool)
	}
	return m
}()

// noteChange notes that a type is not as bare.go knows it. It logs the first time.
func noteChange(internal, found string) {
	if changes[internal].Swap(true) {
		return
	}
	caddy.Log().Named("megaphone").Warn(
		"this version of Caddy or Go differs from the one that Megaphone was made for, so Megaphone does without something: "+
			"writes and idle readers may cost more, and reloads may close connections",
		zap.String("expected", internal), zap.String("found", found), zap.String("made_for_caddy", caddyVersion),
		zap.String("made_for_go", goVersion))
}

// Collectors returns the metric of what was found to have changed in Caddy or Go. The function name makes its full name.
func Collectors(name func(string) string) []prometheus.Collector {
	collectors := make([]prometheus.Collector, 0, len(changes))
	for _, internal := range slices.Sorted(maps.Keys(changes)) {
		collectors = append(collectors, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        name("changed_internals"),
			Help:        "1 if an internal type of Caddy or Go is not as Megaphone knows it, so that Megaphone does without it.",
			ConstLabels: prometheus.Labels{"type": internal},
		}, func() float64 {
			if changes[internal].Load() {
				return 1
			}
			return 0
		}))
	}
	return collectors
}
