package transport

import (
	"bytes"
	"net/http"

	"github.com/google/uuid"

	"github.com/caddy-megaphone/megaphone/internal/jsontext"
)

const (
	// SSEName is the name of the protocol (protocol.md 2.10).
	SSEName = "HTTP_STREAM_SSE_V1"
	// SSEType is the content type of server-sent events.
	SSEType = "text/event-stream"
)

// SSE streams server-sent events (protocol.md 2.3; WHATWG HTML, 9.2). The data of an event is one line of JSON, so
// nothing needs escapes.
//
// A blank line only follows an event's data. Browsers ignore other blank lines, but some libraries take them for events
// without data.
type SSE struct {
	response
	frame frame // for Flush, until the response is detached
	named bool
}

// NewSSE returns the transport for a response. With named, each event has its stream id as its name, unless the id has
// a line break. The bounds limit how long the client may take nothing.
func NewSSE(w http.ResponseWriter, r *http.Request, named bool, bounds Bounds) *SSE {
	return &SSE{response: newResponse(w, r, bounds), named: named}
}

// Start implements [Transport]. It asks the client to connect again one second after the stream has ended.
//
// Over HTTP/1.1 the connection ends with the stream, because a library that does not decode chunks waits for that
// (sseclient of PyPI). Nobody misses the connection: a stream takes minutes.
func (t *SSE) Start() error {
	h := t.w.Header()
	SetStreamHeader(h, SSEType)
	if t.version == 1 { // on HTTP/2, net/http would end the whole connection
		h.Set("Connection", "close")
	}
	t.w.WriteHeader(http.StatusOK)
	return t.write([]byte("retry: 1000\n"))
}

// Append implements [Transport].
func (t *SSE) Append(id uuid.UUID, line []byte) {
	var buffer [128]byte
	before := buffer[:0]
	if t.named {
		before = appendName(before, line)
	}
	text, _ := id.MarshalText() // never fails
	before = append(append(append(before, "id: "...), text...), "\ndata: "...)
	if t.taken != nil {
		t.taken.out.add(before, line, lineFeed)
		return
	}
	t.frame.add(before, line, lineFeed)
}

// appendName appends the line that names an event, unless its stream id has a line break. In that case the event keeps
// the name "message".
func appendName(dst, line []byte) []byte {
	streamID, ok := streamID(line)
	if !ok || bytes.ContainsAny(streamID, "\r\n") {
		return dst
	}
	return append(append(append(dst, "event: "...), streamID...), '\n')
}

// streamID returns the stream id of an event's line, which is its first member.
func streamID(line []byte) (id []byte, ok bool) {
	value, ok := bytes.CutPrefix(line, []byte(`{"sid":`))
	if !ok {
		return nil, false
	}
	end, err := jsontext.StringEnd(value, 0)
	if err != nil {
		return nil, false
	}
	return jsontext.Text(value[:end])
}

var lineFeed = []byte("\n")

// Flush implements [Transport].
func (t *SSE) Flush() error {
	defer t.frame.free()
	for piece := range t.frame.pieces {
		if err := t.put(piece); err != nil {
			return err
		}
	}
	return t.flush()
}

// Heartbeat implements [Transport].
func (t *SSE) Heartbeat() error { return t.write([]byte(":\n")) }
