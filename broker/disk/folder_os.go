package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// An osFolder is a folder of the operating system. Only its owner may read it, since it has the secrets of channels.
type osFolder struct {
	path string
	lock *os.File
	// readOnly makes prepare change nothing. It takes the lock only if there is one: a copy of a journal has none.
	readOnly bool
}

const lockName = "lock"

func (f *osFolder) prepare() error {
	if f.lock != nil && f.isOurs() {
		return nil
	}
	if f.readOnly {
		return f.prepareReading()
	}
	if err := os.MkdirAll(f.path, 0o700); err != nil {
		return err
	}
	lock, err := f.takeLock(os.O_RDWR | os.O_CREATE)
	if err != nil {
		return err
	}
	if f.lock != nil {
		if err := f.mayReplace(); err != nil {
			return errors.Join(err, lock.Close())
		}
		_ = f.lock.Close() // of the folder that has vanished
	}
	host, _ := os.Hostname()
	if err := lock.Truncate(0); err == nil {
		_, _ = lock.WriteAt(fmt.Appendf(nil, "process %d on %s\n", os.Getpid(), host), 0) // only for the error of others
	}
	f.lock = lock
	return nil
}

// prepareReading is prepare for a folder that is only read.
func (f *osFolder) prepareReading() error {
	if _, err := os.Stat(f.path); err != nil {
		return err
	}
	lock, err := f.takeLock(os.O_RDWR) // which network file systems want
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		lock, err = f.takeLock(os.O_RDONLY)
	}
	if isMissing(err) {
		return nil
	}
	f.lock = lock
	return err
}

// takeLock opens the file lock and locks it.
func (f *osFolder) takeLock(flags int) (*os.File, error) {
	lock, err := os.OpenFile(f.name(lockName), flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(lock); err != nil {
		defer lock.Close() //nolint:errcheck // nothing was written
		if !errors.Is(err, errLocked) {
			return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
		owner, _ := io.ReadAll(io.LimitReader(lock, 200))
		return nil, fmt.Errorf("%s is in use by %s: stop that one, or give each server a path of its own", f.path, describeOwner(string(owner)))
	}
	return lock, nil
}

// isOurs reports whether the folder is the one that was locked. It may have vanished, and there may be another one in its place.
func (f *osFolder) isOurs() bool {
	ours, err := f.lock.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(f.name(lockName))
	return err == nil && os.SameFile(ours, there)
}

// mayReplace fails if the folder in the place of the one that has vanished has a journal: nothing may be removed from it.
func (f *osFolder) mayReplace() error {
	names, err := f.list()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(names, isSegmentName) {
		return fmt.Errorf("another journal was put in the place of %s: restart the server, which then goes on with that one", f.path)
	}
	return nil
}

// describeOwner says who has locked a folder.
func describeOwner(owner string) string {
	owner = strings.TrimSpace(owner)
	if owner == "" {
		return "another process"
	}
	if strings.HasPrefix(owner, fmt.Sprintf("process %d ", os.Getpid())) {
		return "this process already"
	}
	return owner
}

func (f *osFolder) close() error {
	if f.lock == nil {
		return nil
	}
	err := f.lock.Close()
	f.lock = nil
	return err
}

func (f *osFolder) name(name string) string { return filepath.Join(f.path, name) }

func (f *osFolder) list() ([]string, error) {
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names, nil
}

func (f *osFolder) create(name string, size int) (_ file, err error) {
	opened, err := os.OpenFile(f.name(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = opened.Close()
			_ = f.remove(name)
		}
	}()
	if err := allocate(opened, size); err != nil {
		return nil, fmt.Errorf("allocate %d bytes for %s: %w", size, opened.Name(), err)
	}
	mem, err := mapFile(opened, size, true)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", opened.Name(), err)
	}
	return &osFile{opened, mem}, nil
}

func (f *osFolder) open(name string) (data []byte, closed func() error, err error) {
	opened, err := os.Open(f.name(name))
	if err != nil {
		return nil, nil, err
	}
	defer opened.Close() //nolint:errcheck // it is only read, and the map stays
	info, err := opened.Stat()
	if err != nil {
		return nil, nil, err
	}
	if info.Size() == 0 {
		return nil, func() error { return nil }, nil
	}
	mem, err := mapFile(opened, int(info.Size()), false)
	if err != nil {
		return nil, nil, fmt.Errorf("map %s: %w", opened.Name(), err)
	}
	populate(mem.bytes, false)
	return mem.bytes, mem.close, nil
}

func (f *osFolder) remove(name string) error { return os.Remove(f.name(name)) }

func (f *osFolder) rename(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(f.name(to)), 0o700); err != nil {
		return err
	}
	return os.Rename(f.name(from), f.name(to))
}

func (f *osFolder) sync() error {
	opened, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer opened.Close() //nolint:errcheck // it is only read
	return syncFolder(opened)
}

func (f *osFolder) has(name string, of file) error {
	ours, err := of.info()
	if err != nil {
		return err
	}
	there, err := os.Stat(f.name(name))
	if err != nil {
		return err
	}
	if !os.SameFile(ours, there) {
		return fmt.Errorf("%s was replaced", f.name(name))
	}
	return nil
}

// An osFile is a file of the operating system, and its memory.
type osFile struct {
	*os.File

	mem mapping
}

func (f *osFile) bytes() []byte              { return f.mem.bytes }
func (f *osFile) written(from, to int) error { return f.mem.written(f.File, from, to) }
func (f *osFile) sync() error                { return f.mem.sync(f.File) }
func (f *osFile) populate()                  { populate(f.mem.bytes, true) }
func (f *osFile) info() (fs.FileInfo, error) { return f.Stat() }

// seal unmaps the file if its content can be synced without, for the reason that syncMapped has to let go of the pages.
func (f *osFile) seal() {
	if syncsUnmapped && f.mem.close() == nil {
		f.mem = mapping{}
	}
}

func (f *osFile) cut(size int) error {
	if err := f.mem.close(); err != nil {
		return err
	}
	f.mem = mapping{}
	return f.Truncate(int64(size))
}

func (f *osFile) close() error {
	mem := f.mem
	if f.mem = (mapping{}); mem.bytes == nil {
		return f.Close()
	}
	return errors.Join(mem.close(), f.Close())
}
