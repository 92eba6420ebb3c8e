package transport

import (
	"net/http"

	"github.com/google/uuid"
)

const (
	// SSEName is the name of the protocol (protocol.md 2.10).
	SSEName = "HTTP_STREAM_SSE_V1"
	// SSEType is the content type of server-sent events.
	SSEType = "text/event-stream"
)

// SSE streams server-sent events (protocol.md 2.3; WHATWG HTML, 9.2). The data of an event is one line of JSON, so
// nothing needs escapes.
type SSE struct {
	response
	frame frame // for Flush, until the response is detached
}

// NewSSE returns the transport for a response. The bounds limit how long the client may take nothing.
func NewSSE(w http.ResponseWriter, r *http.Request, bounds Bounds) *SSE {
	return &SSE{response: newResponse(w, r, bounds)}
}

// Start implements [Transport]. It asks the client to connect again one second after the stream has ended.
func (t *SSE) Start() error {
	SetStreamHeader(t.w.Header(), SSEType)
	t.w.WriteHeader(http.StatusOK)
	return t.write([]byte("retry: 1000\n\n"))
}

// Append implements [Transport].
func (t *SSE) Append(id uuid.UUID, line []byte) {
	var buffer [64]byte
	text, _ := id.MarshalText() // never fails
	before := append(append(append(buffer[:0], "id: "...), text...), "\ndata: "...)
	if t.taken != nil {
		t.taken.out.add(before, line, lineFeed)
		return
	}
	t.frame.add(before, line, lineFeed)
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
func (t *SSE) Heartbeat() error { return t.write([]byte(":\n\n")) }
