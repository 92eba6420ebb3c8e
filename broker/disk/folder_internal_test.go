package disk

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"
)

// A testFolder is a folder in memory that can lose what was not synced, and fail. Its zero value is empty.
type testFolder struct {
	mu    sync.Mutex
	files map[string]*testFile
	// removed are files whose removal is not durable: some are there again after a loss of power.
	removed map[string]*testFile
	locked  bool
	// fail is asked before each operation that may fail. It may be nil.
	fail func(operation, name string) error
	// operations counts them.
	operations int
	// crash, if it is not nil, gets what a loss of power would leave, before each operation.
	crash func(operation int, image map[string][]byte)
	// torn, if it is not nil, leaves some of what was not synced.
	torn *rand.Rand
	// hangs has a channel for each operation that does not return until that is closed, in spite of everything.
	hangs map[string]chan struct{}
	// syncTime is how long a sync takes.
	syncTime time.Duration
}

// A testFile is a file of a testFolder.
type testFile struct {
	folder  *testFolder
	name    string
	data    []byte // which the log writes to, with its own lock held
	seen    []byte // the same, as of the last call of written
	durable []byte // what a loss of power leaves
	linked  bool   // the name is durable
}

// step counts an operation, and fails if it should.
func (f *testFolder) step(operation, name string) error {
	f.operations++
	if f.crash != nil {
		f.crash(f.operations, f.durableImage(f.torn))
	}
	if f.fail != nil {
		return f.fail(operation, name)
	}
	return nil
}

// durableImage returns what a loss of power leaves. With a source of randomness, some pages that were not synced are there
// as well.
func (f *testFolder) durableImage(r *rand.Rand) map[string][]byte {
	image := map[string][]byte{}
	for name, file := range f.files {
		if !file.linked && (r == nil || r.IntN(2) == 0) {
			continue
		}
		data := slices.Clone(file.durable)
		const page = 512
		for at := 0; r != nil && at < len(file.seen); at += page {
			if r.IntN(2) == 0 {
				copy(data[at:], file.seen[at:min(at+page, len(file.seen))])
			}
		}
		image[name] = data
	}
	for name, file := range f.removed {
		if _, again := image[name]; !again && file.linked && (r == nil || r.IntN(2) == 0) {
			image[name] = slices.Clone(file.durable)
		}
	}
	return image
}

// hang lets an operation hang until the returned function is called.
func (f *testFolder) hang(operation string) (release func()) {
	hangs := make(chan struct{})
	set := func(c chan struct{}) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.hangs == nil {
			f.hangs = map[string]chan struct{}{}
		}
		f.hangs[operation] = c
	}
	set(hangs)
	return sync.OnceFunc(func() {
		set(nil)
		close(hangs)
	})
}

// enter takes the lock for an operation.
func (f *testFolder) enter(operation string) {
	f.mu.Lock()
	if c := f.hangs[operation]; c != nil {
		f.mu.Unlock()
		<-c
		f.mu.Lock()
	}
}

// folderOf returns a folder with files that are durable.
func folderOf(image map[string][]byte) *testFolder {
	f := &testFolder{files: map[string]*testFile{}}
	for name, data := range image {
		f.files[name] = &testFile{folder: f, name: name, data: slices.Clone(data), seen: slices.Clone(data), durable: slices.Clone(data), linked: true}
	}
	return f
}

// count returns how many operations there were.
func (f *testFolder) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.operations
}

// failWith sets what operations fail with.
func (f *testFolder) failWith(fail func(operation, name string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

// content returns all files as a process that was killed leaves them.
func (f *testFolder) content() map[string][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	image := map[string][]byte{}
	for name, file := range f.files {
		image[name] = slices.Clone(file.seen)
	}
	return image
}

func (f *testFolder) prepare() error {
	f.enter("prepare")
	defer f.mu.Unlock()
	if f.files == nil {
		f.files = map[string]*testFile{}
	}
	f.locked = true
	return f.step("prepare", "")
}

func (f *testFolder) close() error { return nil }

func (f *testFolder) list() ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name := range f.files {
		names = append(names, name)
	}
	return names, f.step("list", "")
}

func (f *testFolder) create(name string, size int) (file, error) {
	f.enter("create")
	defer f.mu.Unlock()
	if err := f.step("create", name); err != nil {
		return nil, err
	}
	if f.files[name] != nil {
		return nil, fs.ErrExist
	}
	file := &testFile{folder: f, name: name, data: make([]byte, size), seen: make([]byte, size), durable: make([]byte, size)}
	f.files[name] = file
	return file, nil
}

func (f *testFolder) open(name string) ([]byte, func() error, error) {
	f.enter("open")
	defer f.mu.Unlock()
	if err := f.step("open", name); err != nil {
		return nil, nil, err
	}
	file := f.files[name]
	if file == nil {
		return nil, nil, fs.ErrNotExist
	}
	return slices.Clone(file.seen), func() error { return nil }, nil
}

func (f *testFolder) remove(name string) error {
	f.enter("remove")
	defer f.mu.Unlock()
	if err := f.step("remove", name); err != nil {
		return err
	}
	if f.files[name] == nil {
		return fs.ErrNotExist
	}
	if f.removed == nil {
		f.removed = map[string]*testFile{}
	}
	f.removed[name] = f.files[name]
	delete(f.files, name)
	return nil
}

func (f *testFolder) rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step("rename", from); err != nil {
		return err
	}
	f.files[to] = f.files[from]
	delete(f.files, from)
	return nil
}

func (f *testFolder) sync() error {
	f.enter("sync folder")
	defer f.mu.Unlock()
	if err := f.step("sync folder", ""); err != nil {
		return err
	}
	for _, file := range f.files {
		file.linked = true
	}
	f.removed = nil
	return nil
}

func (f *testFolder) has(name string, of file) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step("has", name); err != nil {
		return err
	}
	if f.files[name] != of {
		return fs.ErrNotExist
	}
	return nil
}

func (f *testFile) bytes() []byte { return f.data }
func (f *testFile) populate()     {}
func (f *testFile) seal()         {}

func (f *testFile) written(from, to int) error {
	f.folder.mu.Lock()
	defer f.folder.mu.Unlock()
	if f.seen != nil { // or else only the bytes matter
		copy(f.seen[from:to], f.data[from:to])
	}
	return f.folder.step("write", f.name)
}

func (f *testFile) sync() error {
	time.Sleep(f.folder.syncTime)
	f.folder.enter("sync")
	defer f.folder.mu.Unlock()
	if err := f.folder.step("sync", f.name); err != nil {
		return err
	}
	f.durable = slices.Clone(f.seen)
	return nil
}

func (f *testFile) cut(size int) error {
	f.folder.mu.Lock()
	defer f.folder.mu.Unlock()
	if err := f.folder.step("cut", f.name); err != nil {
		return err
	}
	f.data, f.seen = f.data[:size:size], f.seen[:size:size]
	return nil
}

func (f *testFile) close() error               { return nil }
func (f *testFile) info() (os.FileInfo, error) { return nil, errors.New("not needed") }
