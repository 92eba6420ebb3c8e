//go:build unix && !solaris && !illumos && !aix

package disk

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// mapping is a file that is mapped into memory. What is written there survives the process.
type mapping struct{ bytes []byte }

func mapFile(f *os.File, size int, write bool) (mapping, error) {
	protection := unix.PROT_READ
	if write {
		protection |= unix.PROT_WRITE
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, protection, unix.MAP_SHARED)
	return mapping{mem}, err
}

func (mapping) written(*os.File, int, int) error { return nil }
func (m mapping) sync(f *os.File) error          { return syncMapped(f, m.bytes) }
func (m mapping) close() error                   { return unix.Munmap(m.bytes) }

func syncFolder(f *os.File) error { return f.Sync() }

// errLocked says that another process has the lock.
var errLocked = unix.EWOULDBLOCK

func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for errors.Is(err, unix.EINTR) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	return err
}
