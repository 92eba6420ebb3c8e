package megaphone

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/clock"
)

// An apiError is the reply to a request that cannot be served (protocol.md 1.2).
type apiError struct {
	status  int
	code    string
	message string
	// retryAfter is the value of the Retry-After header in seconds, if not zero.
	retryAfter int
	// allow is the value of the Allow header.
	allow string
	// hangUp closes the connection, on which the rest of a request would follow.
	hangUp bool
	// upgrade tells that a WebSocket is what this address is for.
	upgrade bool
	// cause is what the log is told, and the client is not.
	cause error
}

// codeFault is the code of a fault of the server.
const codeFault = "INTERNAL_SERVER_ERROR"

func (e *apiError) Error() string { return e.message }
func (e *apiError) Unwrap() error { return e.cause }

func badRequest(message string) error {
	return &apiError{status: http.StatusBadRequest, code: "BAD_REQUEST", message: message}
}

// retryAfter is how many seconds a client is asked to wait when a limit is reached.
const retryAfter = 5

// toAPIError is the one place where errors become status codes.
func toAPIError(err error) *apiError {
	var e *apiError
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, broker.ErrNotFound):
		return &apiError{status: http.StatusNotFound, code: "NOT_FOUND", message: "no such channel: it has expired, was deleted, or never was"}
	case errors.Is(err, broker.ErrBusy):
		return &apiError{status: http.StatusConflict, code: "BUSY", message: "another consumer is reading this channel"}
	case errors.Is(err, broker.ErrMessage):
		return &apiError{status: http.StatusBadRequest, code: "BAD_REQUEST", message: err.Error()}
	case errors.Is(err, broker.ErrTimeout), errors.Is(err, context.DeadlineExceeded): // the latter by another handler of the site
		return &apiError{status: http.StatusServiceUnavailable, code: "TIMEOUT", message: "the channel is full, and its consumer made no room in time"}
	case errors.Is(err, broker.ErrSkipped):
		return &apiError{status: http.StatusServiceUnavailable, code: "SKIPPED", message: err.Error()}
	case errors.Is(err, broker.ErrClosed):
		return &apiError{status: http.StatusServiceUnavailable, code: "TIMEOUT", message: "the server is shutting down", hangUp: true}
	case errors.Is(err, broker.ErrChannelLimit):
		return &apiError{status: http.StatusServiceUnavailable, code: "LIMIT_REACHED", message: "the server has as many channels as it may", retryAfter: retryAfter}
	case errors.Is(err, broker.ErrDraining):
		return &apiError{status: http.StatusServiceUnavailable, code: "LIMIT_REACHED", message: "the server is being drained: it takes no new channels", retryAfter: retryAfter}
	case errors.Is(err, broker.ErrReaderLimit):
		return &apiError{status: http.StatusServiceUnavailable, code: "LIMIT_REACHED", message: "the server has as many readers as it may", retryAfter: retryAfter}
	case errors.Is(err, broker.ErrClientLimit):
		return &apiError{status: http.StatusTooManyRequests, code: "LIMIT_REACHED", message: "this client has as many channels as it may", retryAfter: retryAfter}
	case errors.Is(err, broker.ErrMemoryLimit):
		return &apiError{status: http.StatusServiceUnavailable, code: "LIMIT_REACHED", message: "the server holds as many messages as it may", retryAfter: retryAfter}
	}
	return &apiError{status: http.StatusInternalServerError, code: codeFault, message: "a fault of the server; its log says more", cause: err}
}

// write sends the error to the client.
func (e *apiError) write(w http.ResponseWriter, r *http.Request) {
	if e.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(e.retryAfter))
	}
	if e.allow != "" {
		w.Header().Set("Allow", e.allow)
	}
	// HTTP/2 and HTTP/3 have no such headers (RFC 9113, 8.2.2): HTTP/3 clients refuse a reply that has.
	if e.upgrade && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
	}
	if e.hangUp && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	body, _ := json.Marshal(struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}{e.code, e.message})
	writeJSON(w, e.status, body)
}

// Header values that are the same in every reply, made once.
var (
	jsonType = []string{"application/json"}
	noStore  = []string{"no-store"}
)

// writeJSON sends a reply. If the client is gone there is nothing to be done about it.
func writeJSON(w http.ResponseWriter, status int, body []byte) {
	setJSONHeader(w.Header())
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func setJSONHeader(h http.Header) {
	h["Content-Type"] = jsonType
	h["Cache-Control"] = noStore
}

// A directReply is the reply to all direct writes of a connection, as net/http would send it.
type directReply struct {
	begin       []byte // up to the date
	end, hangUp []byte // after it; the latter for the last reply of a connection
	unix        int64  // the second that date is for
	date        []byte
}

// newDirectReply returns the reply with the header that was set before this handler. It reports false if the header says
// something about the connection.
func newDirectReply(header http.Header) (r directReply, ok bool) {
	for _, name := range []string{"Connection", "Content-Length", "Date", "Trailer", "Transfer-Encoding"} {
		if _, ok := header[name]; ok {
			return r, false
		}
	}
	header = header.Clone()
	setJSONHeader(header)
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 201 Created\r\n")
	_ = header.Write(&b) // a buffer takes everything
	b.WriteString("Date: ")
	r.begin = b.Bytes()
	r.end = fmt.Appendf(nil, "\r\nContent-Length: %d\r\n\r\n%s", len(statusOK), statusOK)
	r.hangUp = fmt.Appendf(nil, "\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(statusOK), statusOK)
	return r, true
}

// append appends the reply at a time on the clock of clock.Now that has just come.
func (r *directReply) append(dst []byte, at time.Duration, hangUp bool) []byte {
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
