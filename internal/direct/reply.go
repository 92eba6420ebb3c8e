package direct

import (
	"bytes"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/clock"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

// A reply is the reply to all direct writes of a connection, byte for byte as net/http would send it.
type reply struct {
	header     http.Header // what was set before the handler; do not change it
	beforeDate []byte
	afterDate  []byte
	afterLast  []byte // in place of afterDate, for a reply after which the server closes the connection
	unix       int64  // the second that date is for, in Unix time
	date       []byte
}

// newReply returns the reply with a header that was set before this handler. It reports false if the header says
// something about the connection.
func newReply(header http.Header) (r reply, ok bool) {
	for _, name := range []string{"Connection", "Content-Length", "Date", "Trailer", "Transfer-Encoding"} {
		if _, ok := header[name]; ok {
			return r, false
		}
	}
	r.header = header.Clone()
	header = r.header.Clone()
	httpjson.SetJSONHeader(header)
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 201 Created\r\n")
	_ = header.Write(&b) // writing to a buffer never fails
	b.WriteString("Date: ")
	r.beforeDate = b.Bytes()
	r.afterDate = fmt.Appendf(nil, "\r\nContent-Length: %d\r\n\r\n%s", len(httpjson.OK), httpjson.OK)
	r.afterLast = fmt.Appendf(nil, "\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(httpjson.OK), httpjson.OK)
	return r, true
}

// append appends the reply to dst, with a time that clock.Now has just returned. If last is true, the reply says that the
// server will close the connection.
func (r *reply) append(dst []byte, at time.Duration, last bool) []byte {
	dst = append(dst, r.beforeDate...)
	dst = append(dst, r.dateAt(at)...)
	if last {
		return append(dst, r.afterLast...)
	}
	return append(dst, r.afterDate...)
}

// dateAt returns the Date header's value at a time that clock.Now has just returned.
func (r *reply) dateAt(at time.Duration) []byte {
	if second, _ := clock.Wall(at); second.Unix != r.unix {
		r.unix, r.date = second.Unix, time.Unix(second.Unix, 0).UTC().AppendFormat(r.date[:0], http.TimeFormat)
	}
	return r.date
}

// A recorder records what a handler replies.
type recorder struct {
	header http.Header
	status int
	body   []byte
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *recorder) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	w.body = append(w.body, p...)
	return len(p), nil
}

// appendRecorded appends what was recorded to dst, as net/http would send it. The handler may have said that the reply ends
// the connection. The other arguments are those of append.
func (r *reply) appendRecorded(dst []byte, w *recorder, at time.Duration, last bool) []byte {
	text := http.StatusText(w.status)
	if text == "" {
		text = fmt.Sprint("status code ", w.status)
	}
	b := bytes.NewBuffer(fmt.Appendf(dst, "HTTP/1.1 %03d %s\r\n", w.status, text))
	_ = w.header.Write(b) // writing to a buffer never fails
	fmt.Fprintf(b, "Date: %s\r\n", r.dateAt(at))
	if w.header.Get("Content-Length") == "" {
		fmt.Fprintf(b, "Content-Length: %d\r\n", len(w.body))
	}
	if last && w.header.Get("Connection") == "" {
		b.WriteString("Connection: close\r\n")
	}
	b.WriteString("\r\n")
	b.Write(w.body)
	return b.Bytes()
}
