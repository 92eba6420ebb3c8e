// Package readable reports when sockets can be read, without a goroutine for each of them.
//
// A goroutine that waits in Read has a stack of at least 2 KB, and the garbage collector scans it. If a server waits
// for thousands of silent clients, that is most of what each of them costs.
package readable

import "errors"

// A Waiter waits until its socket can be read.
type Waiter interface {
	// Readable is called once: when there is something to read, when the other side has closed the connection, or when
	// the connection has failed. All waiters share the goroutine that calls it, so it must not block.
	Readable()
}

// ErrNothing means that there is nothing to read yet.
var ErrNothing = errors.New("nothing to read")
