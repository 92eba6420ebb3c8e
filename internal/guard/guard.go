// Package guard keeps the process alive when code panics outside the handlers of net/http. That concerns every goroutine
// and every callback that runs for a client or for somebody else's code: a handler of Caddy's events, a guest Broker, a
// receiver of webhooks, a listener wrapper.
//
// A panic is reported with its place and its stack. The place's cleanup then closes the connection that it concerns. The
// rest is the caller's: locks are released by defer, and loops go on.
//
// The package imports nothing of Caddy and Prometheus, so that the engine may use it.
package guard

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync/atomic"
)

// A Place says where a panic was recovered. There are few places, so they may be the values of a metric's label.
type Place int

// The places.
const (
	Request     Place = iota // a handler of a request: net/http recovers
	Read                     // a read without its handler
	DirectWrite              // the connection of a producer that is served directly
	WebSocket                // what a WebSocket's client sends, and what it is sent meanwhile
	Connection               // connections beside requests: accepted, watched, passed on, closed late
	Event                    // a handler of Caddy's events
	Webhook                  // a webhook's queue
	Broker                   // a Broker, in calls that no request waits for
	Exit                     // the end of a configuration, or of the process
)

var names = [...]string{
	"request", "read", "direct_write", "websocket", "connection", "event", "webhook", "broker", "exit",
}

// String returns the place's name in logs and metrics.
func (p Place) String() string { return names[p] }

// Places returns all places.
func Places() []Place {
	all := make([]Place, len(names))
	for i := range all {
		all[i] = Place(i)
	}
	return all
}

// Recover recovers from a panic, reports it, and calls the cleanups, one after the other. It does nothing if there is no
// panic. It must be deferred itself, not called by a deferred function:
//
//	defer guard.Recover(guard.WebSocket, t.hangUp)
//
// Defer it before the function takes locks. The cleanups may panic too.
func Recover(place Place, cleanups ...func()) {
	v := recover()
	if v == nil {
		return
	}
	call(place, v, debug.Stack())
	for _, cleanup := range cleanups {
		run(place, cleanup)
	}
}

// Go calls f in a new goroutine. If f panics, Go recovers as [Recover] does.
func Go(place Place, f func(), cleanups ...func()) {
	go func() {
		defer Recover(place, cleanups...)
		f()
	}()
}

func run(place Place, f func()) {
	defer Recover(place)
	f()
}

var reporter atomic.Pointer[func(place Place, v any, stack []byte)]

// OnPanic sets the function that is told of each panic: its value, and the stack at the time. There is one for the whole
// process, since it is the process that a panic ends. report is called on any goroutine. If it is nil, as it is at first,
// panics are logged with package slog. OnPanic returns the report before.
func OnPanic(report func(place Place, v any, stack []byte)) (before func(place Place, v any, stack []byte)) {
	var old *func(Place, any, []byte)
	if report == nil {
		old = reporter.Swap(nil)
	} else {
		old = reporter.Swap(&report)
	}
	if old == nil {
		return nil
	}
	return *old
}

// call reports a panic. A report that panics too, as a logger may, is left out.
func call(place Place, v any, stack []byte) {
	defer func() {
		if again := recover(); again != nil {
			fmt.Fprintf(os.Stderr, "panic in %v: %v\n%s\nits report panics too: %v\n", place, v, stack, again)
		}
	}()
	if report := reporter.Load(); report != nil {
		(*report)(place, v, stack)
		return
	}
	slog.Error("a panic was recovered", "place", place.String(), "panic", fmt.Sprint(v), "stack", string(stack))
}
