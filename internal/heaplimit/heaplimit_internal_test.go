package heaplimit

import (
	"math"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"
)

// TestHeapGuard: the runtime's limit follows max_memory and what is in use beside messages, never exceeds the
// operator's, and is restored.
func TestHeapGuard(t *testing.T) {
	inForce := func() int64 { return debug.SetMemoryLimit(-1) }
	before := debug.SetMemoryLimit(math.MaxInt64)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	var messages atomic.Int64
	g := Guard{Messages: messages.Load}
	runtime.GC() // what other tests have left is in nobody's use
	g.Set(100 << 20)
	if limit := inForce(); limit < 120<<20+minOthers || limit > 1<<30 {
		t.Errorf("the limit is %d MiB", limit>>20)
	}
	g.Set(200 << 20)
	if limit := inForce(); limit < 240<<20+minOthers {
		t.Errorf("with a larger max_memory, the limit is %d MiB", limit>>20)
	}
	g.Set(0)
	if limit := inForce(); limit != math.MaxInt64 {
		t.Errorf("the limit stays %d MiB", limit>>20)
	}

	debug.SetMemoryLimit(150 << 20)
	g.Set(200 << 20)
	if limit := inForce(); limit != 150<<20 {
		t.Errorf("the operator's limit has become %d MiB", limit>>20)
	}
	g.Set(0)
	if limit := inForce(); limit != 150<<20 {
		t.Errorf("the operator's limit is restored as %d MiB", limit>>20)
	}

	// What others use has its room, and as much again.
	debug.SetMemoryLimit(math.MaxInt64)
	g.Set(100 << 20)
	others := make([]byte, 200<<20)
	for deadline := time.Now().Add(10 * time.Second); inForce() < 520<<20 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		runtime.GC()
	}
	if limit := inForce(); limit < 520<<20 {
		t.Errorf("with 200 MiB in use beside messages, the limit is %d MiB", limit>>20)
	}
	messages.Store(200 << 20) // it was messages
	for deadline := time.Now().Add(10 * time.Second); inForce() > 400<<20 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		runtime.GC()
	}
	if limit := inForce(); limit > 400<<20 {
		t.Errorf("with 200 MiB of messages, the limit is %d MiB", limit>>20)
	}
	runtime.KeepAlive(others)
	g.Set(0)
}
