//go:build !unix || solaris || illumos || aix

package disk

import (
	"io"
	"os"
)

// mapping is a copy of a file. Each change is written to the file.
type mapping struct{ bytes []byte }

func mapFile(f *os.File, size int, write bool) (mapping, error) {
	mem := make([]byte, size)
	if write {
		return mapping{mem}, nil // it is new, so it has zeros only
	}
	_, err := io.ReadFull(f, mem)
	return mapping{mem}, err
}

func (m mapping) written(f *os.File, from, to int) error {
	_, err := f.WriteAt(m.bytes[from:to], int64(from))
	return err
}

func (mapping) sync(f *os.File) error { return f.Sync() }
func (mapping) close() error          { return nil }

// syncFolder does nothing: these systems make names durable by themselves, or offer no way.
func syncFolder(*os.File) error { return nil }
