//go:build !linux

package receipt

import "syscall"

// A Conn is never made on this system.
type Conn struct{}

func of(syscall.Conn) *Conn { return nil }

// State is never called.
func (*Conn) State() (acked uint64, queued int, err error) { return 0, 0, nil }

// Counts is never called.
func (*Conn) Counts() bool { return false }

// Written is never called.
func (*Conn) Written() (uint64, error) { return 0, nil }
