package disk

import (
	"math"
	"os"

	"golang.org/x/sys/windows"
)

// errLocked says that another process has the lock.
var errLocked = windows.ERROR_LOCK_VIOLATION

// lockFile locks a range behind the file's end. So others can read who has the lock.
func lockFile(f *os.File) error {
	const exclusively = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	return windows.LockFileEx(windows.Handle(f.Fd()), exclusively, 0, 1, 0, &windows.Overlapped{OffsetHigh: math.MaxInt32})
}
