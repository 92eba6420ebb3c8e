package transport

import (
	"slices"
	"strconv"
)

// A chunks is a frame of chunks of a response (RFC 9112, 7.1). Small events are copied right to where they leave from, many
// to a chunk.
type chunks struct {
	frame

	// The last chunk, if it is open: another event may join it. Nothing in it is shared, as that is larger than it may be.
	open        bool
	begins      int // where, in the buffer
	header      int // how long it is; it has the size of the first event until the chunk is closed
	first, size int // of the data
}

var (
	crlf      = []byte("\r\n")
	lastChunk = []byte("0\r\n\r\n")
)

// add adds an event: a line that is shared, between what is copied. No chunk but that of a single event has more data than
// is written at once for NDJSON.
func (c *chunks) add(before, line, after []byte) {
	size := len(before) + len(line) + len(after)
	switch {
	case size == 0:
		return // an empty chunk is the end
	case c.open && c.size+size <= maxNDJSONWrite:
		c.size += size
	default:
		c.begin(size)
	}
	c.frame.add(before, line, after)
	if size > maxNDJSONWrite {
		c.close()
	}
}

// begin begins a chunk.
func (c *chunks) begin(size int) {
	c.close()
	c.open, c.begins, c.first, c.size = true, len(c.bytes()), size, size
	var digits [16]byte
	c.append(strconv.AppendInt(digits[:0], int64(size), 16), crlf)
	c.header = len(c.bytes()) - c.begins
}

// close closes the last chunk. If more than one event is in it, its header may need more digits.
func (c *chunks) close() {
	if !c.open {
		return
	}
	c.open = false
	c.append(crlf)
	if c.size == c.first {
		return
	}
	var digits [16]byte
	header := append(strconv.AppendInt(digits[:0], int64(c.size), 16), crlf...)
	c.content.buffer = slices.Replace(c.content.buffer, c.begins, c.begins+c.header, header...)
}
