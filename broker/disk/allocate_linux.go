package disk

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate makes a new file so large, and takes the room on the disk. So no write to its memory can fail for want of room.
func allocate(f *os.File, size int) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, int64(size))
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), 0, 0, int64(size))
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return fillWithZeros(f, size)
	}
	return err
}

// syncsUnmapped says that a file that was changed in memory can be synced when it is not mapped any more.
const syncsUnmapped = true

// syncMapped makes a file durable whose content was changed in memory, or was until it was unmapped. First it lets go of all pages in
// one go. They stay in the page cache, with what was written to them. Otherwise the sync would take away the right to write to each
// page by itself, and each time interrupt all processors, which must forget what they know of the page.
func syncMapped(f *os.File, mem []byte) error {
	if len(mem) > 0 {
		_ = unix.Madvise(mem, unix.MADV_DONTNEED)
	}
	err := unix.Fdatasync(int(f.Fd()))
	for errors.Is(err, unix.EINTR) {
		err = unix.Fdatasync(int(f.Fd()))
	}
	return err
}

// populate maps all pages at once, which is faster than one after the other when they are used. Old systems cannot.
func populate(mem []byte, write bool) {
	advice := unix.MADV_POPULATE_READ
	if write {
		advice = unix.MADV_POPULATE_WRITE
	}
	_ = unix.Madvise(mem, advice)
}
