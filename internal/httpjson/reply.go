package httpjson

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// An Error is the reply to a request that cannot be served (protocol.md 1.2).
type Error struct {
	Status  int
	Code    string
	Message string
	// retryAfter is the value of the Retry-After header in seconds, if not zero.
	retryAfter int
	// Allow is the value of the Allow header.
	Allow string
	// hangUp closes the connection, because the rest of a request would follow on it.
	hangUp bool
	// Upgrade says that this address is for WebSockets.
	Upgrade bool
	// Cause goes to the log, and not to the client.
	Cause error
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Cause }

// CodeFault is the code of a fault of the server.
const CodeFault = "INTERNAL_SERVER_ERROR"

func BadRequest(message string) error {
	return &Error{Status: http.StatusBadRequest, Code: "BAD_REQUEST", Message: message}
}

// RetryAfter is how many seconds a client should wait when a limit is reached.
const RetryAfter = 5

// replies has the reply to each error that a Broker may return. It is the one place where errors become status codes.
var replies = []struct {
	err   error
	reply Error
}{
	{broker.ErrNotFound, Error{
		Status: http.StatusNotFound, Code: "NOT_FOUND", Message: "no such channel: it has expired, was deleted, or never was",
	}},
	{broker.ErrBusy, Error{
		Status: http.StatusConflict, Code: "BUSY", Message: "another consumer is reading this channel",
	}},
	{broker.ErrTimeout, timeout},
	{context.DeadlineExceeded, timeout}, // of another handler of the site
	{broker.ErrSkipped, Error{
		Status: http.StatusServiceUnavailable, Code: "SKIPPED", Message: broker.ErrSkipped.Error(),
	}},
	{broker.ErrClosed, Error{
		Status: http.StatusServiceUnavailable, Code: "TIMEOUT", Message: "the server is shutting down", hangUp: true,
	}},
	{broker.ErrChannelLimit, limitReached("the server has as many channels as it may")},
	{broker.ErrDraining, limitReached("the server is being drained: it takes no new channels")},
	{broker.ErrReaderLimit, limitReached("the server has as many readers as it may")},
	{broker.ErrMemoryLimit, limitReached("the server holds as many messages as it may")},
	{broker.ErrClientLimit, Error{
		Status: http.StatusTooManyRequests, Code: "LIMIT_REACHED", Message: "this client has as many channels as it may",
		retryAfter: RetryAfter,
	}},
	{broker.ErrOutcomeUnknown, Error{
		Status: http.StatusServiceUnavailable, Code: "TIMEOUT",
		Message: "it is not known whether the message was written: repeat the request with its Idempotency-Key",
	}},
}

var timeout = Error{
	Status: http.StatusServiceUnavailable, Code: "TIMEOUT",
	Message: "the channel is full, and its consumer made no room in time",
}

func limitReached(message string) Error {
	return Error{
		Status: http.StatusServiceUnavailable, Code: "LIMIT_REACHED", Message: message, retryAfter: RetryAfter,
	}
}

// ErrorOf returns the reply to a request that failed with an error. An error that it does not know is a fault of the
// server.
func ErrorOf(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if errors.Is(err, broker.ErrMessage) {
		return &Error{Status: http.StatusBadRequest, Code: "BAD_REQUEST", Message: err.Error()}
	}
	for i := range replies {
		if errors.Is(err, replies[i].err) {
			reply := replies[i].reply
			if errors.Is(err, broker.ErrOutcomeUnknown) {
				reply.Cause = err
			}
			return &reply
		}
	}
	return &Error{
		Status: http.StatusInternalServerError, Code: CodeFault, Message: "a fault of the server; its log says more", Cause: err,
	}
}

// Write sends the error to the client.
func (e *Error) Write(w http.ResponseWriter, r *http.Request) {
	if e.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(e.retryAfter))
	}
	if e.Allow != "" {
		w.Header().Set("Allow", e.Allow)
	}
	// HTTP/2 and HTTP/3 have no such headers (RFC 9113, 8.2.2): HTTP/3 clients refuse a reply that has.
	if e.Upgrade && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
	}
	if e.hangUp && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	body, _ := json.Marshal(struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}{e.Code, e.Message})
	Write(w, e.Status, body)
}

// Header values that every reply has, made once.
var (
	JSONType = []string{"application/json"}
	noStore  = []string{"no-store"}
)

// Write sends a reply. It ignores errors: a client that is gone needs none.
func Write(w http.ResponseWriter, status int, body []byte) {
	SetJSONHeader(w.Header())
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// SetJSONHeader sets the header fields of a JSON reply.
func SetJSONHeader(h http.Header) {
	h["Content-Type"] = JSONType
	h["Cache-Control"] = noStore
}

var OK = []byte(`{"status":"OK"}`)

// TimeOrNull returns a time in UTC as replies have it, or nil for the zero time, which becomes null.
func TimeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
