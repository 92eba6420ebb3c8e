//go:build unix

package testserver

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lock waits until no other process holds the lock on the file, and takes it.
func lock(path string) (unlock func(), err error) { return flock(path, unix.LOCK_EX) }

// tryLock takes the lock on the file, which also this process must not hold. If somebody holds it, unlock is nil.
func tryLock(path string) (unlock func(), err error) {
	unlock, err = flock(path, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return unlock, err
}

func flock(path string, how int) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), how); err != nil {
		_ = file.Close()
		return nil, err
	}
	return func() { _ = file.Close() }, nil
}
