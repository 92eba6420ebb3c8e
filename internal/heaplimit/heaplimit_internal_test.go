package heaplimit

import (
	"math"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"
)

// A guardTest has a guard that is on its own: the test begins without a limit.
type guardTest struct {
	*testing.T

	Guard

	messages atomic.Int64
}

func testGuard(t *testing.T) *guardTest {
	t.Helper()
	before := debug.SetMemoryLimit(math.MaxInt64)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	g := &guardTest{T: t}
	g.Messages = g.messages.Load
	runtime.GC() // other tests have left garbage, which must not count as in use
	return g
}

// limit returns the limit that is in force, in bytes.
func limit() int64 { return debug.SetMemoryLimit(-1) }

// wants collects garbage until the limit is as it should be, for 10 seconds at most.
func (g *guardTest) wants(what string, ok func(limit int64) bool) {
	g.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(limit()) && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		runtime.GC()
	}
	if !ok(limit()) {
		g.Errorf("%s, the limit is %d MiB", what, limit()>>20)
	}
}

func TestTheLimitFollowsMaxMemory(t *testing.T) {
	g := testGuard(t)
	g.Set(100 << 20)
	if limit := limit(); limit < 120<<20+minOthers || limit > 1<<30 {
		t.Errorf("the limit is %d MiB", limit>>20)
	}
	g.Set(200 << 20)
	if limit := limit(); limit < 240<<20+minOthers {
		t.Errorf("with a larger max_memory, the limit is %d MiB", limit>>20)
	}
	g.Set(0)
	if limit := limit(); limit != math.MaxInt64 {
		t.Errorf("without the guard, the limit is %d MiB", limit>>20)
	}
}

func TestALowerLimitOfTheOperatorStays(t *testing.T) {
	g := testGuard(t)
	debug.SetMemoryLimit(150 << 20)
	for _, maxMemory := range []int64{200 << 20, 0} {
		g.Set(maxMemory)
		if limit := limit(); limit != 150<<20 {
			t.Errorf("with a max_memory of %d MiB, the operator's limit has become %d MiB", maxMemory>>20, limit>>20)
		}
	}
}

// TestTheLimitLeavesRoomForOthers: everything except messages may grow to twice what is in use.
func TestTheLimitLeavesRoomForOthers(t *testing.T) {
	g := testGuard(t)
	g.Set(100 << 20)
	defer g.Set(0)
	others := make([]byte, 200<<20)
	g.wants("with 200 MiB in use beside messages", func(limit int64) bool { return limit >= 520<<20 })
	g.messages.Store(200 << 20) // say that the 200 MiB are messages
	g.wants("with 200 MiB of messages", func(limit int64) bool { return limit <= 400<<20 })
	runtime.KeepAlive(others)
}
