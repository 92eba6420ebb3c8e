package transport

import (
	"slices"
	"strconv"
)

// A chunks is a frame that holds chunks of a response (RFC 9112, 7.1). It copies small events right into the buffer
// that is written, many to a chunk.
type chunks struct {
	frame

	// These fields describe the last chunk. While it is open, another event may join it. Nothing in an open chunk is
	// shared: a shared part is larger than an open chunk may be.
	open        bool
	begins      int // where the chunk begins in the buffer
	header      int // the length of its header, which has the size of the first event until the chunk is closed
	first, size int // the bytes of data in the first event, and in all
}

var (
	crlf      = []byte("\r\n")
	lastChunk = []byte("0\r\n\r\n")
)

// add adds an event: a line, which may be shared, between copies of before and after. Only a chunk with a single event
// may have more data than maxNDJSONWrite.
func (c *chunks) add(before, line, after []byte) {
	size := len(before) + len(line) + len(after)
	switch {
	case size == 0:
		return // an empty chunk would end the body
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

// begin begins a chunk whose first event has size bytes.
func (c *chunks) begin(size int) {
	c.close()
	c.open, c.begins, c.first, c.size = true, len(c.bytes()), size, size
	var digits [16]byte
	c.append(strconv.AppendInt(digits[:0], int64(size), 16), crlf)
	c.header = len(c.bytes()) - c.begins
}

// close closes the last chunk. If the chunk has several events, its header may need more digits than before.
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
