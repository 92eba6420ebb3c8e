//go:build unix && !linux && !solaris && !illumos && !aix

package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncMapped makes a file durable whose content was changed in memory.
func syncMapped(f *os.File, mem []byte) error {
	if err := unix.Msync(mem, unix.MS_SYNC); err != nil {
		return err
	}
	return f.Sync()
}
