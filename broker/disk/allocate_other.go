//go:build !linux

package disk

import "os"

// allocate makes a new file so large, and takes the room on the disk. So no write to its memory can fail for want of room.
func allocate(f *os.File, size int) error { return fillWithZeros(f, size) }

// syncsUnmapped says that a file that was changed in memory must be mapped until it is synced.
const syncsUnmapped = false

// populate does nothing.
func populate([]byte, bool) {}
