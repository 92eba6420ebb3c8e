package transport

import (
	"bytes"
	"net/http"

	"github.com/google/uuid"
)

// NDJSONName is the name of the protocol (protocol.md 1.3).
const NDJSONName = "HTTP_STREAM_NDJSON_V1"

// NDJSONType is the content type of newline-delimited JSON.
const NDJSONType = "application/x-ndjson"

// maxNDJSONWrite is how many bytes of whole lines are written at once. Together with the chunk's header, they fit into
// the buffer of net/http's connections (4 KiB), so each flush is one write to the socket. That matters to existing
// clients: they parse what one read returns, and lose a line that is cut in two (protocol.md, part 3).
const maxNDJSONWrite = 4<<10 - 16

// NDJSON streams events as lines (protocol.md 1.6). It sends nothing between events: the clients accept neither blank
// lines nor comments.
type NDJSON struct {
	response
	frame frame // for Flush, until the response is detached
}

// NewNDJSON returns the transport for a response. The bounds limit how long the client may take nothing.
func NewNDJSON(w http.ResponseWriter, r *http.Request, bounds Bounds) *NDJSON {
	return &NDJSON{response: newResponse(w, r, bounds)}
}

// Start implements [Transport].
func (t *NDJSON) Start() error {
	SetStreamHeader(t.w.Header(), NDJSONType)
	return t.start()
}

// Append implements [Transport].
func (t *NDJSON) Append(_ uuid.UUID, line []byte) {
	if t.taken != nil {
		t.taken.out.add(nil, line, nil)
		return
	}
	t.frame.add(nil, line, nil)
}

// Flush implements [Transport].
func (t *NDJSON) Flush() error {
	if t.taken != nil {
		return t.flush()
	}
	defer t.frame.free()
	for lines := range t.frame.pieces {
		for len(lines) > 0 {
			n := wholeLines(lines, maxNDJSONWrite)
			if err := t.write(lines[:n]); err != nil {
				return err
			}
			lines = lines[n:]
		}
	}
	return nil
}

// Heartbeat implements [Transport]. NDJSON has no heartbeat.
func (t *NDJSON) Heartbeat() error { return nil }

// wholeLines returns the length of the lines at the beginning of p that fit into limit bytes together. If even the
// first line does not fit, it returns the length of that line.
func wholeLines(p []byte, limit int) int {
	if len(p) <= limit {
		return len(p)
	}
	if i := bytes.LastIndexByte(p[:limit], '\n'); i >= 0 {
		return i + 1
	}
	return limit + bytes.IndexByte(p[limit:], '\n') + 1
}
