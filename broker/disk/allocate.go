package disk

import "os"

// fillWithZeros takes room on the disk where the system has no call for that.
func fillWithZeros(f *os.File, size int) error {
	zeros := make([]byte, min(size, 1<<20))
	for offset := 0; offset < size; offset += len(zeros) {
		if _, err := f.WriteAt(zeros[:min(len(zeros), size-offset)], int64(offset)); err != nil {
			return err
		}
	}
	return nil
}
