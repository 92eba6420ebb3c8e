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
	header = header.Clone()
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
	if second, _ := clock.Wall(at); second.Unix != r.unix {
		r.unix, r.date = second.Unix, time.Unix(second.Unix, 0).UTC().AppendFormat(r.date[:0], http.TimeFormat)
	}
	dst = append(dst, r.beforeDate...)
	dst = append(dst, r.date...)
	if last {
		return append(dst, r.afterLast...)
	}
	return append(dst, r.afterDate...)
}
