//go:build !linux

package disk

import "os"

// allocate makes a new file so large, and takes the room on the disk. So no write to its memory can fail for want of room.
func allocate(f *os.File, size int) error { return fillWithZeros(f, size) }

// populate does nothing.
func populate([]byte, bool) {}
