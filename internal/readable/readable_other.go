//go:build !linux

package readable

import (
	"errors"
	"syscall"
)

// A Watch is never made on this system.
type Watch struct{}

var errNotHere = errors.New("sockets cannot be watched on this system")

// Start always fails.
func Start(syscall.RawConn, Waiter) (Watch, error) { return Watch{}, errNotHere }

// Again always fails.
func (Watch) Again(syscall.RawConn) error { return errNotHere }

// Stop does nothing.
func (Watch) Stop(syscall.RawConn) {}

// Read always fails.
func Read(syscall.RawConn, []byte) (int, error) { return 0, errNotHere }
