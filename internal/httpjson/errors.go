package httpjson

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/caddy-megaphone/megaphone/broker"
)

// An Error is the reply to a request that failed (protocol.md 1.2). As an error, its text is Message, and errors.Is and
// errors.As look at Cause too. Some Errors are shared, such as [ErrTooLarge]: do not change an Error that you have not
// made.
type Error struct {
	// Status is the HTTP status.
	Status int
	// Code is the error code in the reply's body.
	Code string
	// Message is the text in the reply's body. It is for developers of clients and backends.
	Message string
	// Allow is the value of the Allow header, if it is not empty.
	Allow string
	// Upgrade asks the client to use a WebSocket at this address. It sets the Upgrade header in a reply of HTTP/1.
	Upgrade bool
	// Cause is what the log may say beside Message. The client never sees it. Nil means that there is no more to say.
	Cause error

	acceptEncoding string // the value of the Accept-Encoding header, if it is not empty (RFC 9110, 12.5.3)

	retryAfter int  // the value of the Retry-After header, in seconds; 0: no header
	close      bool // a reply of HTTP/1 ends the connection
}

// Error implements error. It returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Write sends the error to the client, as the reply to r, of which the body need not have been read. It ignores errors: a
// client that is gone needs no reply.
func (e *Error) Write(w http.ResponseWriter, r *http.Request) {
	if e.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(e.retryAfter))
	}
	if e.Allow != "" {
		w.Header().Set("Allow", e.Allow)
	}
	if e.acceptEncoding != "" {
		w.Header().Set("Accept-Encoding", e.acceptEncoding)
	}
	// HTTP/2 and HTTP/3 have no such headers (RFC 9113, 8.2.2). HTTP/3 clients refuse a reply that has one.
	if e.Upgrade && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
	}
	if e.close && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	body, _ := json.Marshal(struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}{e.Code, e.Message})
	WriteEarly(w, r, e.Status, body)
}

// Codes of errors that this package uses more than once.
const (
	codeBadRequest   = "BAD_REQUEST"
	codeTimeout      = "TIMEOUT"
	codeLimitReached = "LIMIT_REACHED"

	// CodeFault is the code of a fault of the server.
	CodeFault = "INTERNAL_SERVER_ERROR"
)

// RetryAfter is how many seconds a client should wait before it repeats a request that a limit has refused.
const RetryAfter = 5

// BadRequest returns an [Error] with status 400 and a message.
func BadRequest(message string) error {
	return &Error{Status: http.StatusBadRequest, Code: codeBadRequest, Message: message}
}

// Forbidden returns an [Error] with status 403 and a message.
func Forbidden(message string) error {
	return &Error{Status: http.StatusForbidden, Code: "FORBIDDEN", Message: message}
}

// ErrTooLarge is the reply to a request whose body is larger than it may be.
var ErrTooLarge = &Error{
	Status: http.StatusRequestEntityTooLarge, Code: "PAYLOAD_TOO_LARGE",
	Message: "the body is larger than this server takes",
}

// replies has the reply to each error that a Broker may return. It is the one place where these errors become statuses. An empty
// Message stands for the text of the error.
var replies = []struct {
	err   error
	reply Error
}{
	{broker.ErrMessage, Error{Status: http.StatusBadRequest, Code: codeBadRequest}},
	{broker.ErrNotFound, Error{
		Status: http.StatusNotFound, Code: "NOT_FOUND", Message: "no such channel: it has expired, was deleted, or never was",
	}},
	{broker.ErrBusy, Error{
		Status: http.StatusConflict, Code: "BUSY", Message: "another consumer is reading this channel",
	}},
	{broker.ErrTimeout, timeout},
	{broker.ErrSkipped, Error{
		Status: http.StatusServiceUnavailable, Code: "SKIPPED", Message: broker.ErrSkipped.Error(),
	}},
	{broker.ErrClosed, Error{
		Status: http.StatusServiceUnavailable, Code: codeTimeout, Message: "the server is shutting down", close: true,
	}},
	{broker.ErrChannelLimit, limitReached(http.StatusServiceUnavailable, "the server has as many channels as it may")},
	{broker.ErrDraining, limitReached(http.StatusServiceUnavailable, "the server is being drained: it takes no new channels")},
	{broker.ErrReaderLimit, limitReached(http.StatusServiceUnavailable, "the server has as many readers as it may")},
	{broker.ErrMemoryLimit, limitReached(http.StatusServiceUnavailable, "the server holds as many messages as it may")},
	{broker.ErrClientLimit, limitReached(http.StatusTooManyRequests, "this client has as many channels as it may")},
	{broker.ErrTopicLimit, Error{
		Status: http.StatusConflict, Code: codeLimitReached, Message: "the channel is a member of as many topics as it may be",
	}},
	{broker.ErrTopicClosed, Error{Status: http.StatusConflict, Code: "CLOSED", Message: "the topic is closed"}},
	{broker.ErrStarting, Error{
		Status: http.StatusServiceUnavailable, Code: "STARTING", retryAfter: 1,
		Message: "the server is starting: its channels are still being loaded",
	}},
	{broker.ErrStorage, Error{
		Status: http.StatusServiceUnavailable, Code: "STORAGE_UNAVAILABLE", retryAfter: RetryAfter,
		Message: "the server's storage takes no writes now",
	}},
	{broker.ErrOutcomeUnknown, Error{
		Status: http.StatusServiceUnavailable, Code: codeTimeout,
		Message: "it is not known whether the request was done: repeat it, a write with its Idempotency-Key",
	}},
	{broker.ErrUnavailable, Error{
		Status: http.StatusServiceUnavailable, Code: codeTimeout, retryAfter: RetryAfter,
		Message: "the store of channels is not available: repeat the request later",
	}},
}

var timeout = Error{
	Status: http.StatusServiceUnavailable, Code: codeTimeout,
	Message: "the channel is full, and its consumer made no room in time",
}

func limitReached(status int, message string) Error {
	return Error{Status: status, Code: codeLimitReached, Message: message, retryAfter: RetryAfter}
}

// ErrorOf returns the reply to a request that failed with err, which must not be nil. If err is or wraps an [Error], that
// is the reply. If err is an error of a Broker or of a message, the reply is the one that the protocol has for it. Any
// other error is a fault of the server: the reply has [CodeFault], and err is its Cause.
func ErrorOf(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	for i := range replies {
		if !errors.Is(err, replies[i].err) {
			continue
		}
		reply := replies[i].reply
		if reply.Message == "" {
			reply.Message = err.Error()
		}
		if errors.Is(err, broker.ErrOutcomeUnknown) {
			reply.Cause = err
		}
		return &reply
	}
	if errors.Is(err, context.DeadlineExceeded) { // another handler of the site has set the deadline
		reply := timeout
		return &reply
	}
	return &Error{
		Status: http.StatusInternalServerError, Code: CodeFault, Message: "a fault of the server; its log says more", Cause: err,
	}
}
