package delivery

import (
	"net/http"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// http2Writes finds out how many of the messages sent on a stream of HTTP/2 the server has written to the socket.
//
// A flush of the response does not tell. It returns when the stream's data is in the buffer of the connection. The
// connection's own goroutine then starts another one that writes the buffer, as soon as no other frame is ready
// (golang.org/x/net/http2, scheduleFrameWrite). We do know two things. The buffer holds at most http2Buffer bytes, and anything
// before those is in the socket. And data that was just flushed has not been written before the socket was given at least
// as many bytes as that data has.
//
// Other streams of the connection may have given the socket those bytes, though only in the moment of the flush: what they
// write later stands behind it. So in addition we wait for http2Delay. Only a full socket delays
// the write for longer. But then bytes are queued, and receipts waits for http2Buffer bytes more than those.
type http2Writes struct {
	conn   peer
	header http.Header // of the response

	next    uint64       // what the flush that comes needs
	flushes [2]http2Data // the newest, and an older one that was not written at the last look
	written int          // messages
}

// An http2Data is the data of a flush.
type http2Data struct {
	sent int    // the messages that were sent with it and before it
	need uint64 // it is not written before the kernel has accepted so many bytes of the connection
	at   time.Time
}

const (
	// http2Delay is how long a flush may take to reach the socket, if other streams write at the same moment.
	http2Delay = 10 * time.Millisecond
	// http2Buffer is the size of the buffer of an HTTP/2 connection (4 KiB), with what TLS adds.
	http2Buffer = 5 << 10
)

// before precedes the flush of some messages.
func (h *http2Writes) before(ms []*broker.Message) {
	written, err := h.conn.Written()
	if err != nil {
		h.next = never
		return
	}
	h.next = written + 1 // compressed data may be as small
	if h.header.Get("Content-Encoding") == "" {
		for _, m := range ms {
			h.next += uint64(len(m.Line()))
		}
	}
}

// never is more bytes than any connection carries.
const never = 1<<64 - 1

// after follows the flush. sent is how many messages were sent so far.
func (h *http2Writes) after(sent int) {
	if h.flushes[1].sent <= h.written {
		h.flushes[1] = h.flushes[0]
	}
	h.flushes[0] = http2Data{sent: sent, need: h.next, at: time.Now()}
}

// count returns how many messages were written.
func (h *http2Writes) count() int {
	total, err := h.conn.Written()
	if err != nil {
		return h.written
	}
	now := time.Now()
	for _, f := range h.flushes {
		if f.sent > h.written && total >= f.need && now.Sub(f.at) >= http2Delay {
			h.written = f.sent
		}
	}
	return h.written
}
