// Package heaplimit keeps the memory of the process in proportion to the messages that it may hold. It sets the memory
// limit of Go's runtime, and knows nothing of messages but their size.
package heaplimit

import (
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"sync"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A Guard keeps the memory of the process near max_memory when messages use max_memory up. Left alone, Go's garbage
// collector lets the heap grow to twice what is in use, messages included. The guard sets the runtime's soft memory limit
// (GOMEMLIMIT). The limit is what everything except messages may grow to by that rule, plus 1.2 times max_memory. So the
// guard has an effect only while messages take a large part of the memory. If the operator has set a lower limit, that
// limit stays in force.
//
// The limit belongs to the process, so only one Guard should be on at a time. Any number of goroutines may call Set.
type Guard struct {
	// Messages returns how many bytes all messages take. It must be set before Set is called for the first time, and must
	// not change after that. The guard calls it in Set and after garbage collections, on any goroutine.
	Messages func() int64

	mu        sync.Mutex
	maxMemory int64 // 0: the guard is off
	operators int64 // the limit that is in force without the guard
	own       int64 // the limit that the guard has set, or 0
	armed     bool  // afterCollection will be called
}

// Set gives the guard the max_memory of the configuration, in bytes, and turns the guard on. With 0, Set turns it off and
// restores the limit that was in force without it, unless somebody else has changed the limit since.
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

// arm makes the runtime call afterCollection after the next garbage collection. So an idle process costs nothing. The
// caller holds the lock.
func (g *Guard) arm() {
	if g.armed {
		return
	}
	g.armed = true
	type sentinel struct{ _ *sentinel } // the pointer keeps it out of the allocator's blocks of tiny objects
	runtime.AddCleanup(new(sentinel), (*Guard).afterCollection, g)
}

// afterCollection adjusts the limit to what the garbage collector has found in use.
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

// minOthers is how many bytes everything except messages may take, however little is in use.
const minOthers = 48 << 20

// adjust sets the limit. The caller holds the lock. The runtime may be what calls it, so it does not panic, even if
// Messages does.
func (g *Guard) adjust() {
	defer guard.Recover(guard.Broker)
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
		return // too small a change to stop the world for
	}
	debug.SetMemoryLimit(limit)
	g.own = limit
}
