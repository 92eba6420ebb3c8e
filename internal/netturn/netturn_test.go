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
			for range 4 {
				all.Go(func() {
					for range 10 {
						netturn.Give()
					}
				})
			}
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

// TestManyGive at once: all go on.
func TestManyGive(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			for range 20 {
				netturn.Give()
			}
		})
	}
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
