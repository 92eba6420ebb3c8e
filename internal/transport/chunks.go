package transport

import (
	"slices"
	"strconv"
)

// A chunks is a frame of chunks of a response (RFC 9112, 7.1). What was added is whole chunks at any time. A chunk that
// another event may join has nothing that is shared, as that is larger.
type chunks struct {
	frame

	last   int // where the last chunk begins in the buffer, if another event may join it
	header int // how long its header is
	size   int // how long its data is; 0 if none may join it
}

var (
	crlf      = []byte("\r\n")
	lastChunk = []byte("0\r\n\r\n")
)

// add adds an event: a line that is shared, between what is copied. Small events have chunks together, and no chunk but that
// of a single event is larger than a limit.
func (c *chunks) add(before, line, after []byte) {
	size := len(before) + len(line) + len(after)
	switch {
	case size == 0:
		return // an empty chunk is the end
	case c.size > 0 && c.size+size <= maxNDJSONWrite:
		c.join(size)
	default:
		c.begin(size)
	}
	c.frame.append(before)
	c.share(line)
	c.frame.append(after, crlf)
}

// begin begins a chunk.
func (c *chunks) begin(size int) {
	c.last = len(c.bytes())
	var digits [16]byte
	header := strconv.AppendInt(digits[:0], int64(size), 16)
	c.frame.append(header, crlf)
	c.header, c.size = len(header)+len(crlf), size
	if size > maxNDJSONWrite {
		c.size = 0
	}
}

// join opens the last chunk for so many bytes more. Its header may need more digits then.
func (c *chunks) join(size int) {
	c.size += size
	var digits [16]byte
	header := strconv.AppendInt(digits[:0], int64(c.size), 16)
	more := len(header) + len(crlf) - c.header
	buffer := c.content.buffer[:len(c.content.buffer)-len(crlf)]
	buffer = slices.Insert(buffer, c.last, header[:more]...)
	copy(buffer[c.last:], header)
	c.content.buffer, c.header = buffer, c.header+more
}

// free empties the frame.
func (c *chunks) free() {
	c.frame.free()
	c.size = 0
}
