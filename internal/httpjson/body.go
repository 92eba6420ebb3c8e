package httpjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// bodies are buffers for request bodies.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// MaxKeptBody is the largest buffer, in bytes, that is kept for the next request.
const MaxKeptBody = 64 << 10

func FreeBody(body *bytes.Buffer) {
	if body.Cap() <= MaxKeptBody {
		body.Reset()
		bodies.Put(body)
	}
}

// ReadBody reads a request's body up to its end, so that net/http notices when the client leaves after it. The
// caller gives the buffer back with freeBody.
func ReadBody(r *http.Request, limit int64) (*bytes.Buffer, error) {
	if r.ContentLength > limit {
		return nil, ErrTooLarge
	}
	body := bodies.Get().(*bytes.Buffer)
	var err error
	if n := r.ContentLength; 0 <= n && n <= MaxKeptBody {
		// Nearly all bodies: at most one read, and no allocation (BenchmarkServeWrite). Larger ones are not trusted
		// with their length, which costs memory. HTTP/1 reports the end with the last byte, so it is noticed.
		body.Grow(int(n))
		p := body.AvailableBuffer()[:n]
		_, err = io.ReadFull(r.Body, p)
		body.Write(p) // is in its place already
	} else {
		n, err = body.ReadFrom(io.LimitReader(r.Body, limit+1))
		if err == nil && n > limit {
			err = ErrTooLarge
		}
	}
	if err != nil {
		FreeBody(body)
		return nil, BodyError(err)
	}
	return body, nil
}

var ErrTooLarge = &Error{
	Status: http.StatusRequestEntityTooLarge, Code: "PAYLOAD_TOO_LARGE",
	Message: "the body is larger than this server takes", hangUp: true,
}

// BodyError is the reply to a request whose body cannot be read.
func BodyError(err error) error {
	// Caddy's request_body has a limit of its own.
	if e, ok := errors.AsType[caddyhttp.HandlerError](err); ok && e.StatusCode == http.StatusRequestEntityTooLarge {
		return ErrTooLarge
	}
	if errors.Is(err, ErrTooLarge) {
		return ErrTooLarge
	}
	e := &Error{
		Status: http.StatusBadRequest, Code: "BAD_REQUEST", Message: "the body ended early or is malformed", hangUp: true,
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// Not status 408, upon which some clients repeat a request by themselves: part of it may be done.
		e.Message, e.Cause = "the body paused for longer than this server waits", err
	}
	return e
}

// ReadJSON reads a request's body, which must be one JSON value of the shape of v.
func ReadJSON(r *http.Request, limit int64, v any) error {
	if err := CheckJSONType(r); err != nil {
		return err
	}
	body, err := ReadBody(r, limit)
	if err != nil {
		return err
	}
	defer FreeBody(body)
	if !utf8.Valid(body.Bytes()) {
		return BadRequest("the body is not UTF-8")
	}
	if err := json.Unmarshal(body.Bytes(), v); err != nil {
		return BadRequest("the body is not as expected: " + strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// CheckJSONType checks that a request's body is JSON by its Content-Type.
func CheckJSONType(r *http.Request) error {
	contentType := r.Header.Get("Content-Type")
	if contentType == "application/json" {
		return nil
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err == nil && (mediaType == "application/json" ||
		strings.HasPrefix(mediaType, "application/") && strings.HasSuffix(mediaType, "+json")) {
		return nil
	}
	return &Error{
		Status: http.StatusUnsupportedMediaType, Code: "UNSUPPORTED_MEDIA_TYPE",
		Message: "the body must be JSON, with Content-Type: application/json",
	}
}
