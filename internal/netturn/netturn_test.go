package netturn_test

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/netturn"
)

// TestGiveInABubble does not take time, nor keep the bubble from waiting.
func TestGiveInABubble(t *testing.T) {
	t.Parallel()
	for range 2 { // the pipe outlives a bubble
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			var all sync.WaitGroup
			give(&all, 4, 10)
			synctest.Wait()
			all.Wait()
			time.Sleep(time.Second)
			netturn.Give()
			if took := time.Since(start); took != time.Second {
				t.Errorf("the bubble's clock says %v", took)
			}
		})
	}
}

// give has so many goroutines give the network its turn so many times.
func give(all *sync.WaitGroup, goroutines, times int) {
	for range goroutines {
		all.Go(func() {
			for range times {
				netturn.Give()
			}
		})
	}
}

// TestManyGive at once: all go on.
func TestManyGive(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	give(&all, 100, 20)
	all.Wait()
}

func TestGiveAllocatesNothing(t *testing.T) {
	netturn.Give()
	if n := testing.AllocsPerRun(100, netturn.Give); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkGive shows what a turn costs. On one core it has the network asked each time.
func BenchmarkGive(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for b.Loop() {
		netturn.Give()
	}
}
