//go:build !unix

package testserver

// lock does nothing on this system.
func lock(string) (unlock func(), err error) { return func() {}, nil }

// tryLock does nothing on this system.
func tryLock(string) (unlock func(), err error) { return func() {}, nil }
