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
	"github.com/caddy-megaphone/megaphone/internal/jsontext"
	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// serveIngest reads messages for any number of channels, one on each line, and writes them as they arrive (protocol.md 2.6).
func (h *Handler) serveIngest(w http.ResponseWriter, r *http.Request, entry *accessLogEntry) error {
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != transport.NDJSONType {
		return &httpjson.Error{
			Status: http.StatusUnsupportedMediaType, Code: "UNSUPPORTED_MEDIA_TYPE",
			Message: "a stream of messages must have Content-Type: " + transport.NDJSONType,
		}
	}
	body, free, err := httpjson.StreamBody(r, h.app.MaxMessageSize)
	if err != nil {
		return err
	}
	defer free()
	end, err := h.topicEnd(r.URL)
	if err != nil {
		return err
	}
	defer end.Abort() // if it has not ended before
	in := ingest{Ingestion: h.app.broker.Ingest(h.app.limits), handler: h}
	finished := false
	defer func() {
		if !finished { // a panic: no line may wait on
			ctx, cancel := context.WithCancel(r.Context())
			cancel()
			in.Finish(ctx)
		}
	}()
	err = in.lines(r.Context(), body, int(h.app.MaxMessageSize))
	ctx := r.Context()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// A limit of Caddy's, read_body_idle or read_body. On HTTP/1 any failure to read ends the context, as if the client
		// were gone.
		ctx = context.WithoutCancel(ctx)
	}
	finished = true
	result := in.Finish(ctx)
	result.Written += in.published
	entry.messages = result.Written
	h.noteLimit(broker.ErrMemoryLimit, result.RefusedMemory)
	if err == nil && ctx.Err() == nil {
		err = end.Done()
	}
	if gone := ctx.Err(); gone != nil && !errors.Is(err, broker.ErrClosed) {
		return gone
	}
	var refusal *httpjson.Error
	if err != nil {
		refusal = h.noteRefusal(entry, err)
	}
	return writeIngestResult(w, r, result, refusal)
}

// writeIngestResult replies with what became of all lines. If the request itself was refused, the reply says that too.
func writeIngestResult(w http.ResponseWriter, r *http.Request, result broker.IngestResult, refusal *httpjson.Error) error {
	reply := struct {
		Code          string `json:"code,omitempty"`
		Message       string `json:"message,omitempty"`
		Written       int    `json:"written"`
		Failures      []any  `json:"failures"`
		FailuresTotal int    `json:"failuresTotal"`
	}{Written: result.Written, Failures: []any{}, FailuresTotal: result.FailuresTotal}
	for _, f := range result.Failures {
		code := httpjson.ErrorOf(f.Err).Code
		if _, ok := errors.AsType[*topicLineError](f.Err); ok {
			reply.Failures = append(reply.Failures, topicFailure{f.Producer, f.Number, code})
		} else {
			reply.Failures = append(reply.Failures, failure{f.Producer, f.Number, code})
		}
	}
	status := http.StatusCreated
	if refusal != nil {
		status, reply.Code, reply.Message = refusal.Status, refusal.Code, refusal.Message
	}
	body, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	httpjson.WriteEarly(w, r, status, body)
	return nil
}

// A topicFailure is a message that a topic has not taken, and why.
type topicFailure struct {
	Topic  string `json:"topic"`
	Index  int    `json:"index"`
	Reason string `json:"reason"`
}

// A topicLineError is the error of a line that names a topic.
type topicLineError struct{ error }

func (e *topicLineError) Unwrap() error { return e.error }

// An ingest is a streamed ingest: that of the Broker, which has the channels, and publishes to topics.
type ingest struct {
	broker.Ingestion

	handler   *Handler
	published int // lines that a topic has taken
}

// lineBuffers are buffers for the text of streams.
var lineBuffers = sync.Pool{New: func() any {
	buffer := make([]byte, lineBuffer)
	return &buffer
}}

// lineBuffer is how much of a stream is read at once, in bytes, unless a line is longer.
const lineBuffer = 64 << 10

// lines writes the lines of a stream, until the stream ends or a line is longer than the limit.
func (in *ingest) lines(ctx context.Context, stream io.Reader, limit int) error {
	pooled := lineBuffers.Get().(*[]byte)
	defer lineBuffers.Put(pooled)
	buffer := *pooled
	number, begin, end := 0, 0, 0 // buffer[begin:end] is read, and not written yet
	for {
		n, err := stream.Read(buffer[end:])
		scanned := end
		end += n
		for {
			i := bytes.IndexByte(buffer[scanned:end], '\n')
			if i < 0 {
				break
			}
			if err := in.line(ctx, number, buffer[begin:scanned+i], limit); err != nil {
				return err
			}
			number++
			begin = scanned + i + 1
			scanned = begin
		}
		switch {
		case errors.Is(err, io.EOF):
			return in.line(ctx, number, buffer[begin:end], limit)
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

// line writes one line. An error ends the stream.
func (in *ingest) line(ctx context.Context, number int, line []byte, limit int) error {
	line = bytes.Trim(line, " \t\r")
	switch {
	case len(line) == 0:
		return nil
	case len(line) > limit:
		return httpjson.ErrTooLarge
	}
	e, err := parseEnvelope(line)
	if err != nil {
		in.fail(number, &e, httpjson.BadRequest(err.Error()))
		return nil
	}
	m, err := e.message()
	if err != nil {
		in.fail(number, &e, err)
		return nil
	}
	if e.topic == nil {
		return in.Write(ctx, number, e.channel, m)
	}
	if err := in.publish(ctx, string(e.topic), m); err != nil {
		in.fail(number, &e, err)
		return ctx.Err()
	}
	in.published++
	return nil
}

// publish publishes a line. Members without room miss it.
func (in *ingest) publish(ctx context.Context, topic string, m *broker.Message) error {
	h := in.handler
	if !h.serves[publishEndpoint] {
		return errNoPublish
	}
	_, err := h.topics.PublishTopic(ctx, topic, m, broker.FullMiss, h.app.limits)
	return err
}

// fail notes a line that could not be written.
func (in *ingest) fail(number int, e *envelope, err error) {
	name := e.channel
	if e.topic != nil {
		name, err = e.topic, &topicLineError{err}
	}
	f := broker.NewIngestFailure(number, string(name), err) // which every Broker should make, but some may keep the whole name
	in.Fail(number, f.Producer, err)
}

// An envelope is one line of a streamed ingest: a message and its channel (protocol.md 2.6). Its parts share memory with the
// line.
type envelope struct {
	channel  []byte // as text; nil if there is a topic
	topic    []byte // as text; nil if there is a channel
	streamID []byte // as a JSON string
	body     []byte
	key      string
	merge    broker.Merge

	compact bool // the body has no white space between its tokens
}

var errEnvelope = errors.New(`a line is {"channel":…,"streamId":…,"body":…}, or has "topic" in place of "channel"`)

// parseEnvelope reads a line. It does what encoding/json does with a struct, with two differences: names are case
// sensitive, and each value must be of the right kind, null included. It is several times faster (BenchmarkEnvelope) and
// allocates nothing for a line without escapes in its strings.
func parseEnvelope(line []byte) (envelope, error) {
	var e envelope
	if err := jsontext.Members(line, e.set); err != nil {
		return e, err
	}
	return e, e.check()
}

// set sets a member of the envelope. It ignores members that it does not know.
func (e *envelope) set(name, value []byte, compact bool) error {
	var err error
	switch string(name) {
	case "channel":
		e.channel, err = textOf(value)
	case "topic":
		if e.topic, err = textOf(value); err == nil {
			err = broker.CheckTopic(string(e.topic))
		}
	case "streamId":
		if e.streamID = value; value[0] != '"' {
			return errEnvelope
		}
	case "body":
		e.body, e.compact = value, compact
	case "key":
		var key []byte
		key, err = textOf(value)
		if e.key = string(key); err == nil && !broker.ValidKey(e.key) {
			err = errKey
		}
	case "merge":
		var ok bool
		text, _ := jsontext.Text(value)
		if e.merge, ok = broker.ParseMerge(string(text)); !ok {
			err = errMerge
		}
	}
	return err
}

func (e *envelope) check() error {
	switch {
	case (e.channel == nil) == (e.topic == nil) || e.streamID == nil || e.body == nil:
		return errEnvelope
	case len(e.streamID) == len(`""`):
		return errors.New("the stream id is empty")
	}
	return nil
}

// message renders the envelope's message.
func (e *envelope) message() (*broker.Message, error) {
	streamID := e.streamID
	if bytes.IndexByte(streamID, '\\') >= 0 {
		text, err := textOf(streamID)
		if err != nil {
			return nil, err
		}
		streamID = jsontext.AppendString(nil, string(text))
	}
	m, err := broker.NewMessageFromJSON(streamID, e.body, e.compact, e.key)
	if err != nil {
		return nil, err
	}
	return m.WithMerge(e.merge), nil
}

// textOf returns the text of a JSON value, which must be a string.
func textOf(value []byte) ([]byte, error) {
	text, ok := jsontext.Text(value)
	if !ok {
		return nil, errEnvelope
	}
	return text, nil
}
