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

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/conn"
	"github.com/caddy-megaphone/megaphone/internal/jsontext"
)

// bodies has buffers for request bodies.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// MaxKeptBody is the size, in bytes, of the largest buffer that is kept for another request.
const MaxKeptBody = 64 << 10

// FreeBody gives a buffer of [ReadBody] back for other requests. The caller must not use the buffer, or a slice of it,
// after that. A buffer that is not given back is left to the garbage collector.
func FreeBody(body *bytes.Buffer) {
	if body.Cap() <= MaxKeptBody {
		body.Reset()
		bodies.Put(body)
	}
}

// readBody is [ReadBody] for a body without a Content-Encoding. It reads any other as it is.
func readBody(r *http.Request, limit int64) (*bytes.Buffer, error) {
	if r.ContentLength > limit {
		return nil, ErrTooLarge
	}
	body := bodies.Get().(*bytes.Buffer)
	var err error
	if n := r.ContentLength; 0 <= n && n <= MaxKeptBody {
		// Nearly all bodies: at most one read, and no allocation (BenchmarkServeWrite). A larger Content-Length does not make
		// us reserve memory: the body may never come. HTTP/1 reports the end with the last byte, so we notice it.
		body.Grow(int(n))
		p := body.AvailableBuffer()[:n]
		_, err = io.ReadFull(r.Body, p)
		body.Write(p) // p is already in its place: this only sets the length
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

// BodyError returns the error for a body that could not be read because of err: [broker.ErrClosed] if the process exits,
// [ErrTooLarge] if the body is larger than this package or another handler allows, and an [Error] with status 400
// otherwise.
func BodyError(err error) error {
	if errors.Is(err, broker.ErrClosed) { // from conn.Bodies
		return broker.ErrClosed
	}
	// Caddy's request_body has a limit of its own.
	if e, ok := errors.AsType[caddyhttp.HandlerError](err); ok && e.StatusCode == http.StatusRequestEntityTooLarge {
		return ErrTooLarge
	}
	if errors.Is(err, ErrTooLarge) || errors.Is(err, conn.ErrTooLong) {
		return ErrTooLarge
	}
	if e, ok := errors.AsType[*Error](err); ok { // of StreamBody
		return e
	}
	e := &Error{Status: http.StatusBadRequest, Code: codeBadRequest, Message: "the body ended early or is malformed"}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// Not status 408: some clients then repeat the request by themselves, although part of it may be done.
		e.Message, e.Cause = "the body paused for longer than this server waits", err
	}
	return e
}

// ReadJSON reads the body of a request into v, as [json.Unmarshal] does. The body may have limit bytes. It must be one
// JSON value in UTF-8, and the Content-Type must say that it is JSON. Errors are as for [BodyError].
func ReadJSON(r *http.Request, limit int64, v any) error {
	if err := CheckJSONType(r); err != nil {
		return err
	}
	body, err := ReadBody(r, limit)
	if err != nil {
		return err
	}
	defer FreeBody(body)
	return unmarshal(body, v)
}

// ReadOptionalJSON is [ReadJSON] for a request that needs no body. If the body is empty, even if only its end says so, v stays as
// it is, and the Content-Type does not matter.
func ReadOptionalJSON(r *http.Request, limit int64, v any) error {
	body, err := ReadBody(r, limit)
	if err != nil {
		return err
	}
	defer FreeBody(body)
	if body.Len() == 0 {
		return nil
	}
	if err := CheckJSONType(r); err != nil {
		return err
	}
	return unmarshal(body, v)
}

func unmarshal(body *bytes.Buffer, v any) error {
	if !utf8.Valid(body.Bytes()) {
		return BadRequest("the body is not UTF-8")
	}
	if err := json.Unmarshal(body.Bytes(), v); err != nil {
		return BadRequest("the body is not as expected: " + jsontext.Explain(err))
	}
	return nil
}

// CheckJSONType checks that the Content-Type of a request is JSON: application/json, or application/ with a type that ends
// in +json. Parameters do not matter. If it is not, the error is an [Error] with status 415.
func CheckJSONType(r *http.Request) error {
	contentType := r.Header.Get("Content-Type")
	if contentType == JSONType {
		return nil
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err == nil && (mediaType == JSONType ||
		strings.HasPrefix(mediaType, "application/") && strings.HasSuffix(mediaType, "+json")) {
		return nil
	}
	return &Error{
		Status: http.StatusUnsupportedMediaType, Code: "UNSUPPORTED_MEDIA_TYPE",
		Message: "the body must be JSON, with Content-Type: application/json",
	}
}
