// Package readable tells when sockets can be read, without a goroutine for each of them.
//
// A goroutine that waits in Read has a stack of 2 KB at least, which the garbage collector scans. Where thousands of
// clients are waited for that say nothing, that is most of what each of them costs.
package readable

import "errors"

// A Waiter waits until its socket can be read.
type Waiter interface {
	// Readable is called once when there is something to read, the other side has closed the connection, or the
	// connection has failed. All waiters share the goroutine that calls it, so it must not block.
	Readable()
}

// ErrNothing tells that there is nothing to read yet.
var ErrNothing = errors.New("nothing to read")
