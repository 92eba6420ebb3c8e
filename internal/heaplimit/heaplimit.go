package heaplimit

import (
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"sync"
)

// A Guard keeps the process's memory near max_memory when messages use that up. Left alone, Go's garbage
// collector lets the heap grow to twice of what is in use, messages included. The guard sets the runtime's soft
// memory limit (GOMEMLIMIT) to what everything but messages may grow to by that rule, and a fifth over max_memory.
// So it has an effect only while messages take a large part of the memory. A limit of the operator's that is lower
// stays in force.
type Guard struct {
	Messages func() int64 // bytes of all messages

	mu        sync.Mutex
	maxMemory int64 // 0: the guard is off
	operators int64 // the limit that is in force without the guard
	own       int64 // the one that the guard has set, or 0
	armed     bool  // afterCollection will be called
}

// Set tells the guard the max_memory of the configuration; with 0 it restores the runtime's limit.
func (g *Guard) Set(maxMemory int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.maxMemory = maxMemory
	if maxMemory == 0 {
		if g.own != 0 && debug.SetMemoryLimit(-1) == g.own {
			debug.SetMemoryLimit(g.operators)
		}
		g.own = 0
		return
	}
	g.adjust()
	g.arm()
}

// arm has afterCollection called when the garbage collector has run: an idle process costs nothing. The lock is held.
func (g *Guard) arm() {
	if g.armed {
		return
	}
	g.armed = true
	type sentinel struct{ _ *sentinel } // has a pointer, so that it is an object of its own
	runtime.AddCleanup(new(sentinel), (*Guard).afterCollection, g)
}

// afterCollection adjusts the limit to what the collector has found in use.
func (g *Guard) afterCollection() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.armed = false
	if g.maxMemory == 0 {
		return
	}
	g.adjust()
	g.arm()
}

// minOthers is what everything but messages may take at least, in bytes.
const minOthers = 48 << 20

// adjust sets the limit. The lock is held.
func (g *Guard) adjust() {
	samples := []runtimemetrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/metadata/mspan/inuse:bytes"},
		{Name: "/memory/classes/other:bytes"},
	}
	runtimemetrics.Read(samples)
	others := -g.Messages()
	for _, s := range samples {
		if s.Value.Kind() == runtimemetrics.KindUint64 {
			others += int64(s.Value.Uint64()) //nolint:gosec // far below the limit
		}
	}
	if inForce := debug.SetMemoryLimit(-1); inForce != g.own || g.own == 0 {
		g.operators = inForce
	}
	limit := min(g.operators, max(2*others, minOthers)+g.maxMemory+g.maxMemory/5)
	if difference := limit - g.own; max(difference, -difference) < g.own/50 {
		return // not worth the runtime's stop for it
	}
	debug.SetMemoryLimit(limit)
	g.own = limit
}
