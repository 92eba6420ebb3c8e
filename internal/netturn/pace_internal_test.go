package netturn

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

func TestAPaceGivesATurnAfterSoManyGoroutines(t *testing.T) {
	t.Parallel()
	p := Every(16)
	begun := p.begun
	p.Woke(15)
	if p.Worked(time.Hour); p.woken != 15 || !p.begun.Equal(begun) {
		t.Error("there was a turn too early")
	}
	if p.Woke(1); p.woken != 0 || p.begun.Equal(begun) {
		t.Error("there was no turn")
	}
	begun = p.begun
	for p.begun.Equal(begun) {
		p.Worked(time.Millisecond)
	}
	if took := p.begun.Sub(begun); took < time.Millisecond {
		t.Errorf("there was a turn after %v", took)
	}
}

// TestALoopGoesOnBesideOthersThatCompute all the time, on one core: its turns come more rarely.
func TestALoopGoesOnBesideOthersThatCompute(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the network has no turns there")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
		}
	}()
	p := Every(128)
	for begun := time.Now(); p.step < maxStep && time.Since(begun) < 5*time.Second; {
		p.Woke(p.step)
	}
	if p.step != maxStep {
		t.Errorf("there is a turn after %d goroutines", p.step)
	}
	stop.Store(true)
	<-done
	for begun := time.Now(); p.step > 128 && time.Since(begun) < 5*time.Second; {
		p.Woke(p.step)
	}
	if p.step != 128 {
		t.Errorf("later there is a turn after %d goroutines", p.step)
	}
}
