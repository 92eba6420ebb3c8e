package metrics

import (
	"errors"
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/broker/memory"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A panickyBroker panics in whatever Prometheus makes it do.
type panickyBroker struct{ *memory.Broker }

func (panickyBroker) Stats() broker.Stats           { panic("Stats") }
func (panickyBroker) StoreStats() broker.StoreStats { panic("StoreStats") }
func (panickyBroker) Healthy() error                { panic("Healthy") }

// TestABrokerThatPanicsTakesNoOtherMetricsAway: Prometheus collects in goroutines of its own, where a panic would end the process.
func TestABrokerThatPanicsTakesNoOtherMetricsAway(t *testing.T) {
	panics := make(chan any, 100)
	before := guard.OnPanic(func(place guard.Place, v any, _ []byte) {
		if place != guard.Broker {
			t.Errorf("%v panics in %v", v, place)
		}
		panics <- v
	})
	defer func() { guard.OnPanic(before) }()
	b := memory.New()
	defer b.Close()
	m := New(panickyBroker{b}, testEndpoints, testLimits)
	registry := prometheus.NewPedanticRegistry()
	old := map[string]string{"old_channels": Name("channels"), "old_readers": Name("readers"), "old_storage": Name("storage_up")}
	if err := errors.Join(m.Register(registry, broker.Limits{}, old), m.RegisterOriginal(registry)); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Error(err)
	}
	found := map[string]bool{}
	for _, f := range families {
		found[f.GetName()] = true
		if f.GetName() == Name("storage_up") && f.GetMetric()[0].GetGauge().GetValue() != 0 {
			t.Error("the storage is up")
		}
	}
	if !found[Name("readers")] || !found["old_readers"] || !found[Name("storage_up")] {
		t.Errorf("only these metrics are left: %v", maps.Keys(found))
	}
	close(panics)
	calls := map[any]int{}
	for call := range panics {
		calls[call]++
	}
	// Each is collected under its own name and under an old one, and Stats for the original's names too.
	if want := map[any]int{"Stats": 3, "StoreStats": 2, "Healthy": 2}; !maps.Equal(calls, want) {
		t.Errorf("the panics are %v, want %v", calls, want)
	}
}
