package handover

import (
	"bufio"
	"bytes"
	"net/http"
	"slices"
	"strings"
)

// An extent says where a request ends. net/http checks what it reads, so an extent need not: if net/http has read a
// request to its end, the request was right.
type extent struct {
	length int     // of the whole request, in bytes, unless it is in chunks
	chunks *chunks // nil if it is not
	added  int     // how many bytes chunks has seen, with the header
}

// extentOf returns the extent of the request with which begin begins, up to the end of its header at least. It returns
// nil if the request cannot be read.
func extentOf(begin []byte) *extent {
	source := bytes.NewReader(begin)
	buffered := bufio.NewReader(source)
	r, err := http.ReadRequest(buffered)
	if err != nil {
		return nil
	}
	header := len(begin) - source.Len() - buffered.Buffered()
	if r.ContentLength >= 0 {
		return &extent{length: header + int(r.ContentLength)}
	}
	if !slices.Equal(r.TransferEncoding, []string{"chunked"}) {
		return nil
	}
	e := &extent{chunks: new(chunks), added: header}
	e.add(begin[header:])
	return e
}

// maybeChunked reports whether a request may be one in chunks. It is fast, and overlooks those that write the word in an
// odd way.
func maybeChunked(begin []byte) bool { return bytes.Contains(begin, []byte("hunked")) }

// add continues the request.
func (e *extent) add(p []byte) {
	if e.chunks != nil {
		e.chunks.add(p)
		e.added += len(p)
	}
}

// isAll reports whether the request is exactly the total bytes that were read.
func (e *extent) isAll(total int) bool {
	if e.chunks != nil {
		return e.chunks.ended && !e.chunks.more && e.added == total
	}
	return total == e.length
}

// chunks follows a chunked body to its end (RFC 9112, 7.1). The zero value is at the beginning.
type chunks struct {
	size     uint64 // of the chunk, as far as its line was read
	ignored  bool   // the rest of the chunk's line: it is no part of the size
	data     uint64 // how many bytes of the chunk, with the line end after it, are still to come
	trailers bool   // the last chunk has ended
	some     bool   // the line of the trailers is not empty
	ended    bool
	more     bool // there was something after the end
}

// add continues the body.
func (c *chunks) add(p []byte) {
	for len(p) > 0 {
		switch {
		case c.ended:
			c.more = true
			return
		case c.data > 0:
			n := min(c.data, uint64(len(p)))
			c.data -= n
			p = p[n:]
		default:
			c.addToLine(p[0])
			p = p[1:]
		}
	}
}

// addToLine continues a line: the size of a chunk, or a trailer.
func (c *chunks) addToLine(b byte) {
	switch {
	case b == '\n':
		c.endLine()
	case c.trailers:
		c.some = c.some || b != '\r'
	case !c.ignored:
		digit := strings.IndexByte("0123456789abcdef", b|0x20) // the bit makes letters small, and leaves digits
		if c.ignored = digit < 0; !c.ignored {
			c.size = c.size<<4 | uint64(digit) //nolint:gosec // not negative
		}
	}
}

func (c *chunks) endLine() {
	switch {
	case c.trailers:
		c.ended = !c.some
	case c.size == 0:
		c.trailers = true
	default:
		c.data = c.size + uint64(len("\r\n"))
	}
	c.size, c.ignored, c.some = 0, false, false
}
