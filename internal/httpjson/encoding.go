package httpjson

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// acceptedCodings are the content codings of request bodies that this package decodes, as in Accept-Encoding.
const acceptedCodings = "gzip, zstd"

var errCoding = &Error{
	Status: http.StatusUnsupportedMediaType, Code: "UNSUPPORTED_MEDIA_TYPE",
	Message:        "the body must have one Content-Encoding of " + acceptedCodings + ", or none",
	acceptEncoding: acceptedCodings,
}

// codingOf returns the content coding of a body: gzip, zstd, or "" for a body without one (RFC 9110, 8.4). It does not
// accept several, which nobody needs and which multiply what a small body can become.
func codingOf(h http.Header) (string, error) {
	values := h["Content-Encoding"]
	if len(values) == 0 {
		return "", nil
	}
	switch coding := strings.ToLower(strings.Join(values, ",")); coding {
	case "", "identity":
		return "", nil
	case "gzip", "x-gzip":
		return "gzip", nil
	case "zstd":
		return coding, nil
	}
	return "", errCoding
}

// ReadBody reads the body of a request up to its end, and decodes its Content-Encoding. So net/http notices when the client
// goes away after it. The body may have limit bytes, decoded. The buffer belongs to the caller until the caller calls
// [FreeBody]. Errors are as for [BodyError], or have status 415 if the Content-Encoding is unknown; the buffer is nil then.
func ReadBody(r *http.Request, limit int64) (*bytes.Buffer, error) {
	coding, err := codingOf(r.Header)
	if err != nil {
		return nil, err
	}
	if coding == "" {
		return readBody(r, limit)
	}
	// The coding may make a body longer that cannot be compressed, but by less than this.
	encoded, err := readBody(r, limit+limit/256+1024)
	if err != nil {
		return nil, err
	}
	defer FreeBody(encoded)
	return decode(r.Context(), coding, encoded, limit)
}

// zstdBodies limits how many bodies are decoded at once from zstd, which takes up to maxWindow of memory for each. All of
// such a body is there, so each takes only as long as the processor needs.
var zstdBodies = make(chan struct{}, runtime.GOMAXPROCS(0))

// decode decodes a whole body, which may have limit bytes then.
func decode(ctx context.Context, coding string, encoded io.Reader, limit int64) (*bytes.Buffer, error) {
	if coding == "zstd" {
		select {
		case zstdBodies <- struct{}{}:
			defer func() { <-zstdBodies }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	d, err := newDecoder(coding, encoded)
	if err != nil {
		return nil, codingError(coding, err)
	}
	defer d.free()
	body := bodies.Get().(*bytes.Buffer)
	n, err := body.ReadFrom(io.LimitReader(d, limit+1))
	if err == nil && n <= limit {
		return body, nil
	}
	FreeBody(body)
	if err == nil {
		return nil, ErrTooLarge
	}
	return nil, codingError(coding, err)
}

// codingError returns the error for a body that cannot be decoded because of err.
func codingError(coding string, err error) error {
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return BadRequest(fmt.Sprintf("the body needs a zstd window of more than %d MiB: compress it with a smaller one", maxWindow>>20))
	}
	return BadRequest("the body is not valid " + coding + ", or ended early")
}

// maxWindow is the largest window of zstd, in bytes, that a recipient of HTTP has to support (RFC 9659).
const maxWindow = 8 << 20

// maxZstdStreams is how many streams may be decoded at once from zstd. Each takes up to maxWindow of memory while it is open.
const maxZstdStreams = 32

var zstdStreams = make(chan struct{}, maxZstdStreams)

var errZstdStreams = limitReached(http.StatusServiceUnavailable, "too many streams are compressed with zstd: use gzip, which takes less memory")

// maxRatio is how many times longer than its encoded form a stream may become, beyond the limit of one line. Text seldom
// shrinks to less than a hundredth, but a bomb to a thousandth and less.
const maxRatio = 256

// StreamBody returns a reader for the body of a request that decodes its Content-Encoding as the body arrives. The caller
// must call free when the body is no longer needed. Errors of the reader are for [BodyError], which makes [ErrTooLarge] of a
// body that is a bomb: it becomes more than 256 times longer than what has arrived, and longer than limit bytes. The error
// of StreamBody is an [Error]: it has status 415 if the Content-Encoding is unknown.
func StreamBody(r *http.Request, limit int64) (body io.Reader, free func(), err error) {
	coding, err := codingOf(r.Header)
	if err != nil || coding == "" {
		return r.Body, func() {}, err
	}
	s := &decodedStream{source: r.Body, coding: coding, limit: limit}
	if coding == "zstd" {
		select {
		case zstdStreams <- struct{}{}:
		default:
			return nil, nil, &errZstdStreams
		}
	}
	return s, s.free, nil
}

// A decodedStream is a body that is decoded while it arrives.
type decodedStream struct {
	source  io.Reader
	coding  string
	limit   int64
	decoder *decoder // nil until the first Read
	err     error    // of source
	arrived int64    // bytes from source
	decoded int64
}

// Read implements [io.Reader].
func (s *decodedStream) Read(p []byte) (n int, err error) {
	if s.decoder == nil {
		s.decoder, err = newDecoder(s.coding, sourceReader{s}) // which may read the head of the stream
	}
	if err == nil {
		n, err = s.decoder.Read(p)
	}
	s.decoded += int64(n)
	switch {
	case s.decoded > s.limit+maxRatio*s.arrived:
		return n, ErrTooLarge
	case err == nil || errors.Is(err, io.EOF) && s.err == nil:
		return n, err
	case s.err != nil:
		return n, s.err
	}
	return n, codingError(s.coding, err)
}

func (s *decodedStream) free() {
	if s.decoder != nil {
		s.decoder.free()
	}
	if s.coding == "zstd" {
		<-zstdStreams
	}
}

// A sourceReader reads the source of a decodedStream. It keeps the error, which decoders may replace.
type sourceReader struct{ *decodedStream }

// Read implements [io.Reader].
func (s sourceReader) Read(p []byte) (int, error) {
	n, err := s.source.Read(p)
	s.arrived += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// A decoder decodes one body. Its memory is used for others after free.
type decoder struct {
	io.Reader

	free func()
}

var (
	gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}
	zstdReaders = sync.Pool{New: func() any {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			panic(err) // the options are valid
		}
		return d // has no goroutine, so the garbage collector may take it
	}}
)

// newDecoder returns a decoder for what encoded has.
func newDecoder(coding string, encoded io.Reader) (*decoder, error) {
	if coding == "zstd" {
		d := zstdReaders.Get().(*zstd.Decoder)
		free := func() {
			_ = d.Reset(nil) // it does not keep the body
			zstdReaders.Put(d)
		}
		return &decoder{d, free}, d.Reset(onlyReader{encoded})
	}
	d := gzipReaders.Get().(*gzip.Reader)
	free := func() {
		_ = d.Reset(onlyReader{bytes.NewReader(nil)}) // it does not keep the body
		gzipReaders.Put(d)
	}
	if err := d.Reset(encoded); err != nil {
		free()
		return nil, err
	}
	return &decoder{d, free}, nil
}

// An onlyReader hides all other methods of a reader. With the methods of a buffer, zstd decodes all of it at once, whatever
// it becomes.
type onlyReader struct{ io.Reader }
