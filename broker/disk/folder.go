package disk

import "io/fs"

// A folder holds the files of one journal. Tests have one that loses what was not synced, and that fails.
type folder interface {
	// prepare makes the folder, if it is not there, and locks it for this process. It fails if another process has it.
	prepare() error
	// close unlocks the folder.
	close() error
	// list returns the names of all files.
	list() ([]string, error)
	// create makes a file of so many zeros, for reading and writing. It fails if there is such a file.
	create(name string, size int) (file, error)
	// open returns the content of a file, and a function that must be called when the content is not needed any more.
	open(name string) (data []byte, closed func() error, err error)
	remove(name string) error
	rename(from, to string) error
	// sync makes the names of files durable.
	sync() error
	// has fails if the folder has a file of this name no more, or if it is another one.
	has(name string, f file) error
}

// A file is a file of a folder that is being written. One goroutine at a time uses its bytes.
type file interface {
	// bytes returns the file as memory. After a change, written must be called.
	bytes() []byte
	// written tells that the bytes between two offsets have changed. After it, the change survives the process.
	written(from, to int) error
	// sync makes all changes durable.
	sync() error
	// seal ends the use of the bytes, before the last sync, which is cheaper then.
	seal()
	// populate makes the first change of each byte fast.
	populate()
	// cut makes the file shorter. The bytes must not be used after that.
	cut(size int) error
	// close ends the use of the file and its bytes. It may be called again.
	close() error
	info() (fs.FileInfo, error)
}
