package megaphone

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"sync"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/httpjson"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// serveIngest reads messages for any number of channels, a line each, and writes them as they come (protocol.md
// 2.6).
func (h *Handler) serveIngest(w http.ResponseWriter, r *http.Request, rec *record) error {
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != transport.NDJSONType {
		return &httpjson.Error{
			Status: http.StatusUnsupportedMediaType, Code: "UNSUPPORTED_MEDIA_TYPE",
			Message: "a stream of messages must have Content-Type: " + transport.NDJSONType,
		}
	}
	ingestion := h.app.broker.Ingest(h.app.limits)
	err := func() error {
		// No longer than this: net/http goes on to read, and the client would seem to be gone.
		defer h.app.registry.cutOffReading(w)()
		return ingestLines(r.Context(), r.Body, ingestion, int(h.app.MaxMessageSize))
	}()
	if err != nil && h.app.registry.isClosed() {
		err = broker.ErrClosed
	}
	ctx := r.Context()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// Caddy's read_body_idle or read_body. On HTTP/1 the context ends with any failure to read, as if the client were gone.
		ctx = context.WithoutCancel(ctx)
	}
	result := ingestion.Finish(ctx)
	rec.messages = result.Written
	h.noteLimit(broker.ErrMemoryLimit, result.RefusedMemory)
	if gone := ctx.Err(); gone != nil && !errors.Is(err, broker.ErrClosed) {
		return gone
	}
	var refusal *httpjson.Error
	if err != nil {
		refusal = h.noteRefusal(rec, err)
		if r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close") // the rest of the request would follow on it
		}
	}
	return writeIngestResult(w, result, refusal)
}

// writeIngestResult tells what became of all lines. If the request itself was refused, that is told with it.
func writeIngestResult(w http.ResponseWriter, result broker.IngestResult, refusal *httpjson.Error) error {
	reply := struct {
		Code          string    `json:"code,omitempty"`
		Message       string    `json:"message,omitempty"`
		Written       int       `json:"written"`
		Failures      []failure `json:"failures"`
		FailuresTotal int       `json:"failuresTotal"`
	}{Written: result.Written, Failures: []failure{}, FailuresTotal: result.FailuresTotal}
	for _, f := range result.Failures {
		reply.Failures = append(reply.Failures, failure{f.Producer, f.Number, httpjson.ErrorOf(f.Err).Code})
	}
	status := http.StatusCreated
	if refusal != nil {
		status, reply.Code, reply.Message = refusal.Status, refusal.Code, refusal.Message
	}
	body, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	httpjson.Write(w, status, body)
	return nil
}

// lineBuffers are buffers for what was read of a stream.
var lineBuffers = sync.Pool{New: func() any {
	buffer := make([]byte, lineBuffer)
	return &buffer
}}

// lineBuffer is how much of a stream is read at once, in bytes.
const lineBuffer = 64 << 10

// ingestLines passes the lines of a stream on, until it ends or a line is longer than the limit.
func ingestLines(ctx context.Context, stream io.Reader, ingestion broker.Ingestion, limit int) error {
	pooled := lineBuffers.Get().(*[]byte)
	defer lineBuffers.Put(pooled)
	buffer := *pooled
	number, begin, end := 0, 0, 0 // buffer[begin:end] is read, and not passed on
	for {
		n, err := stream.Read(buffer[end:])
		scanned := end
		end += n
		for {
			i := bytes.IndexByte(buffer[scanned:end], '\n')
			if i < 0 {
				break
			}
			if err := ingestLine(ctx, ingestion, number, buffer[begin:scanned+i], limit); err != nil {
				return err
			}
			number++
			begin = scanned + i + 1
			scanned = begin
		}
		switch {
		case errors.Is(err, io.EOF):
			return ingestLine(ctx, ingestion, number, buffer[begin:end], limit)
		case err != nil:
			return httpjson.BodyError(err)
		case end-begin > limit:
			return httpjson.ErrTooLarge
		case begin > 0:
			end = copy(buffer, buffer[begin:end])
			begin = 0
		case end == len(buffer):
			buffer = append(buffer, make([]byte, len(buffer))...)
		}
	}
}

// ingestLine passes one line on. The error is one that ends the stream.
func ingestLine(ctx context.Context, ingestion broker.Ingestion, number int, line []byte, limit int) error {
	line = bytes.Trim(line, " \t\r")
	switch {
	case len(line) == 0:
		return nil
	case len(line) > limit:
		return httpjson.ErrTooLarge
	}
	e, err := parseEnvelope(line)
	if err != nil {
		ingestion.Fail(number, string(e.channel), httpjson.BadRequest(err.Error()))
		return nil
	}
	m, err := e.message()
	if err != nil {
		ingestion.Fail(number, string(e.channel), err)
		return nil
	}
	return ingestion.Write(ctx, number, e.channel, m)
}
