package histogram

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

func TestSum(t *testing.T) {
	bounds := []time.Duration{time.Second, time.Minute}
	var a, b Histogram
	a.Observe(bounds, time.Second, 2)
	a.Observe(bounds, time.Hour, 1)
	b.Observe(bounds, time.Second+1, 1)
	b.Observe(bounds, -time.Second, 1) // the clock of another server may be ahead
	want := broker.Histogram{Bounds: bounds, Cumulative: []uint64{3, 4}, Count: 5, Sum: time.Hour + 3*time.Second + 1}
	if got := Sum(bounds, &a, &b); !reflect.DeepEqual(got, want) {
		t.Errorf("the sum is %+v, want %+v", got, want)
	}
}

// TestBounds: they are in order, there is room for a bucket more, and Life has those of the original's metric.
func TestBounds(t *testing.T) {
	for _, bounds := range [][]time.Duration{Wait, Delay, Life} {
		if !slices.IsSorted(bounds) || len(bounds) >= maxBuckets {
			t.Errorf("the bounds are %v", bounds)
		}
	}
	for bound := 80 * time.Second; bound <= 20480*time.Second; bound *= 2 {
		if !slices.Contains(Life, bound) {
			t.Errorf("%v is missing", bound)
		}
	}
}
