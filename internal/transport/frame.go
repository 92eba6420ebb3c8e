package transport

import (
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/socket"
)

// A frame collects bytes for one write. It copies small parts into a buffer, and refers to large parts where they are.
// So stalled clients do not hold a copy each. The memory of a frame comes from a pool and goes back there, so an idle
// transport holds none. The zero value is empty.
type frame struct {
	content *content // nil if the frame is empty
}

// A content is the memory of a frame.
type content struct {
	buffer []byte
	shared []shared
	pieces [][]byte // for the kernel
}

// A shared is a part of a frame that is not copied.
type shared struct {
	at   int // the part comes before the byte of the buffer at this index
	part []byte
}

var contents = sync.Pool{New: func() any { return new(content) }}

const (
	// minShared is the size, in bytes, of the smallest part that is not copied. To copy a smaller part costs less than
	// another piece for the kernel (BenchmarkShared).
	minShared = 8 << 10
	// maxKeptBuffer is the largest buffer, in bytes, that goes back to the pool.
	maxKeptBuffer = 128 << 10
)

func (f *frame) empty() bool { return f.content == nil }

// append adds copies of parts.
func (f *frame) append(parts ...[]byte) {
	if f.content == nil {
		f.content = contents.Get().(*content)
	}
	for _, part := range parts {
		f.content.buffer = append(f.content.buffer, part...)
	}
}

// add adds a line between copies of before and after. The line must not change until free.
func (f *frame) add(before, line, after []byte) {
	if f.content == nil {
		f.content = contents.Get().(*content)
	}
	c := f.content
	if len(line) < minShared {
		c.buffer = append(append(append(c.buffer, before...), line...), after...)
		return
	}
	c.buffer = append(c.buffer, before...)
	c.shared = append(c.shared, shared{len(c.buffer), line})
	c.buffer = append(c.buffer, after...)
}

// Write implements [io.Writer].
func (f *frame) Write(p []byte) (int, error) {
	f.append(p)
	return len(p), nil
}

// bytes returns what was copied into the frame, without the shared parts. The result is valid until free.
func (f *frame) bytes() []byte {
	if f.content == nil {
		return nil
	}
	return f.content.buffer
}

// pieces calls yield with everything that was added, in order, until yield returns false. No piece is empty.
func (f *frame) pieces(yield func([]byte) bool) {
	if f.content == nil {
		return
	}
	from := 0
	for _, s := range f.content.shared {
		if from < s.at && !yield(f.content.buffer[from:s.at]) || !yield(s.part) {
			return
		}
		from = s.at
	}
	if from < len(f.content.buffer) {
		yield(f.content.buffer[from:])
	}
}

// writeTo writes everything that was added to a socket.
func (f *frame) writeTo(w *socket.Writer, timeout time.Duration) error {
	if f.content == nil || len(f.content.shared) == 0 {
		return w.Write(f.bytes(), timeout)
	}
	for piece := range f.pieces {
		f.content.pieces = append(f.content.pieces, piece)
	}
	return w.WritePieces(f.content.pieces, timeout)
}

// free empties the frame and gives its memory back to the pool.
func (f *frame) free() {
	c := f.content
	if c != nil && cap(c.buffer) <= maxKeptBuffer {
		clear(c.shared)
		clear(c.pieces)
		c.buffer, c.shared, c.pieces = c.buffer[:0], c.shared[:0], c.pieces[:0]
		contents.Put(c)
	}
	f.content = nil
}
