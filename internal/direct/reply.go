package direct

import (
	"bytes"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/clock"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
)

// A reply is the reply to all direct writes of a connection, as net/http would send it.
type reply struct {
	begin       []byte // up to the date
	end, hangUp []byte // after it; the latter for the last reply of a connection
	unix        int64  // the second that date is for
	date        []byte
}

// newReply returns the reply with the header that was set before this handler. It reports false if the header says
// something about the connection.
func newReply(header http.Header) (r reply, ok bool) {
	for _, name := range []string{"Connection", "Content-Length", "Date", "Trailer", "Transfer-Encoding"} {
		if _, ok := header[name]; ok {
			return r, false
		}
	}
	header = header.Clone()
	httpjson.SetJSONHeader(header)
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 201 Created\r\n")
	_ = header.Write(&b) // a buffer takes everything
	b.WriteString("Date: ")
	r.begin = b.Bytes()
	r.end = fmt.Appendf(nil, "\r\nContent-Length: %d\r\n\r\n%s", len(httpjson.OK), httpjson.OK)
	r.hangUp = fmt.Appendf(nil, "\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(httpjson.OK), httpjson.OK)
	return r, true
}

// append appends the reply at a time on the clock of clock.Now that has just come.
func (r *reply) append(dst []byte, at time.Duration, hangUp bool) []byte {
	if second, _ := clock.Wall(at); second.Unix != r.unix {
		r.unix, r.date = second.Unix, time.Unix(second.Unix, 0).UTC().AppendFormat(r.date[:0], http.TimeFormat)
	}
	dst = append(dst, r.begin...)
	dst = append(dst, r.date...)
	if hangUp {
		return append(dst, r.hangUp...)
	}
	return append(dst, r.end...)
}
