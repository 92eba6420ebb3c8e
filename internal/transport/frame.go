package transport

import "sync"

// A frame collects what is to be written at once. Its buffer comes from a pool and goes back there, so that an
// idle transport holds none. Its zero value is empty.
type frame struct {
	buffer *[]byte
}

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// maxKeptBuffer is the largest buffer, in bytes, that goes back to the pool.
const maxKeptBuffer = 128 << 10

func (f *frame) append(p ...[]byte) {
	if f.buffer == nil {
		f.buffer = buffers.Get().(*[]byte)
	}
	for _, part := range p {
		*f.buffer = append(*f.buffer, part...)
	}
}

// Write implements [io.Writer].
func (f *frame) Write(p []byte) (int, error) {
	f.append(p)
	return len(p), nil
}

// bytes returns what was appended. It is good until free.
func (f *frame) bytes() []byte {
	if f.buffer == nil {
		return nil
	}
	return *f.buffer
}

func (f *frame) free() {
	if f.buffer != nil && cap(*f.buffer) <= maxKeptBuffer {
		*f.buffer = (*f.buffer)[:0]
		buffers.Put(f.buffer)
	}
	f.buffer = nil
}
