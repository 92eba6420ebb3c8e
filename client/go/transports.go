package megaphone

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// pollTime is how long the server may wait with the answer to a poll. It answers earlier if its setting read_duration is
// shorter.
const pollTime = 20 * time.Second

// open begins a read that follows the last event.
func (r *reader) open(ctx context.Context) (source, error) {
	q, contentType := r.request(), ndjsonType
	switch r.options.Transport {
	case SSE:
		contentType = sseType
		q.header.Set("Accept", sseType)
	case WebSocket:
		contentType = ""
		nonce := make([]byte, 16)
		_, _ = rand.Read(nonce) // never fails
		q.header.Set("Connection", "Upgrade")
		q.header.Set("Upgrade", "websocket")
		q.header.Set("Sec-WebSocket-Version", "13")
		q.header.Set("Sec-WebSocket-Key", base64.StdEncoding.EncodeToString(nonce))
	case Poll:
		q.query.Set("poll", pollTime.String())
	case NDJSON:
	}
	c := newConnection(ctx, r.options)
	response, err := r.client.do(c.ctx, q, contentType) //nolint:bodyclose // the source closes it
	c.idle.Stop()
	if err != nil {
		c.cancel(nil)
		return nil, err
	}
	c.body = response.Body
	if response.Header.Get("Megaphone-Resume") == "gap" {
		r.gap = true
	}
	switch r.options.Transport {
	case SSE:
		return &events{c, bufio.NewReader(c)}, nil
	case WebSocket:
		return newWebSocket(c, response.Body)
	default:
		return &lines{c, bufio.NewReader(c)}, nil
	}
}

// request returns a request to read what follows the last event.
func (r *reader) request() request {
	return request{
		method: http.MethodGet, path: "/read/" + url.PathEscape(r.consumer),
		query: url.Values{"after": {r.after}}, header: http.Header{},
	}
}

// A connection is a request, and the body of a reply that takes its time. It ends with its context, and with its idle timer,
// which runs only while somebody waits for the server.
type connection struct {
	ctx    context.Context //nolint:containedctx // of the request
	cancel context.CancelCauseFunc
	body   io.ReadCloser // set once there is a reply
	idle   *time.Timer
	limit  time.Duration
}

var errIdle = errors.New("the server has sent nothing for too long, not even a heartbeat")

// newConnection starts the wait for a reply.
func newConnection(ctx context.Context, o ReadOptions) *connection {
	c := &connection{limit: o.IdleTimeout}
	if o.Transport == Poll {
		c.limit += pollTime
	}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.idle = time.AfterFunc(c.limit, func() { c.cancel(errIdle) })
	return c
}

// Read reads from the body. An error says why the context has ended, if it has.
func (c *connection) Read(p []byte) (int, error) {
	c.idle.Reset(c.limit)
	defer c.idle.Stop() // the application may take its time
	n, err := c.body.Read(p)
	if err != nil && c.ctx.Err() != nil {
		err = context.Cause(c.ctx)
	}
	return n, err
}

func (c *connection) close() {
	c.cancel(nil)
	_ = c.body.Close()
}

// processed does nothing: the cursor of the next read tells the server.
func (c *connection) processed(string) {}

// lines is a read of lines (1.6, 2.5).
type lines struct {
	*connection

	buffer *bufio.Reader
}

func (l *lines) next() ([]byte, error) {
	line, err := l.buffer.ReadBytes('\n')
	switch {
	case errors.Is(err, io.EOF) && len(line) > 0:
		err = io.ErrUnexpectedEOF
	case errors.Is(err, errIdle) && len(line) == 0:
		err = io.EOF // no heartbeats: only the next request can find out whether the server is there
	}
	return bytes.TrimSuffix(line, []byte("\n")), err
}

// events is a read of server-sent events (2.3).
type events struct {
	*connection

	buffer *bufio.Reader
}

func (e *events) next() ([]byte, error) {
	var data []byte
	for {
		line, err := e.buffer.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if value, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			data = append(append(data, bytes.TrimPrefix(value, []byte(" "))...), '\n')
		}
		if len(line) == 0 && len(data) > 0 {
			return data[:len(data)-1], nil
		}
	}
}

// A webSocket is a read by WebSocket (2.4).
type webSocket struct {
	*connection

	conn   io.ReadWriter
	buffer *bufio.Reader
	reader wsutil.Reader
	stop   func() bool
	unacks int // how many events were processed since the last acknowledgement
}

func newWebSocket(c *connection, body io.ReadCloser) (source, error) {
	writer, ok := body.(io.Writer)
	if !ok { // a RoundTripper of its own
		c.close()
		return nil, &finalError{errors.New("the HTTP client does not support WebSockets")}
	}
	s := &webSocket{connection: c, conn: struct {
		io.Reader
		io.Writer
	}{c, writer}}
	s.stop = context.AfterFunc(c.ctx, func() { _ = body.Close() }) // net/http no longer does
	s.buffer = bufio.NewReader(c)
	s.reader = wsutil.Reader{
		Source: s.buffer, State: ws.StateClientSide, CheckUTF8: true,
		OnIntermediate: wsutil.ControlFrameHandler(s.conn, ws.StateClientSide),
	}
	return s, nil
}

func (s *webSocket) next() ([]byte, error) {
	for {
		header, err := s.reader.NextFrame()
		if err != nil {
			return nil, s.closed(err)
		}
		if header.OpCode.IsControl() {
			if err := s.reader.OnIntermediate(header, &s.reader); err != nil {
				return nil, s.closed(err)
			}
			continue
		}
		text, err := io.ReadAll(&s.reader)
		if err != nil {
			return nil, s.closed(err)
		}
		return text, nil
	}
}

// closed returns what an error means: a close frame of the server ends the read, or the whole reading.
func (s *webSocket) closed(err error) error {
	closed, ok := errors.AsType[wsutil.ClosedError](err)
	if !ok {
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF // no close frame
		}
		return err
	}
	switch closed.Code { //nolint:exhaustive // any other is a fault
	case ws.StatusNormalClosure, ws.StatusGoingAway:
		return io.EOF
	case closeNotFound:
		return &Error{Status: http.StatusNotFound, Code: "NOT_FOUND", Message: "the channel is gone"}
	case closeTakenOver:
		return ErrTakenOver
	}
	return fmt.Errorf("the server closed the WebSocket with %d %s", closed.Code, closed.Reason)
}

// Close codes of Megaphone (2.4).
const (
	closeNotFound  ws.StatusCode = 4404
	closeTakenOver ws.StatusCode = 4409
)

// maxUnacks is how many events one acknowledgement may be for. It must be smaller than the server's setting in_flight by far.
const maxUnacks = 16

// processed acknowledges an event. One acknowledgement does for all events that have come together.
func (s *webSocket) processed(id string) {
	if s.unacks++; s.buffer.Buffered() > 0 && s.unacks < maxUnacks {
		return
	}
	s.unacks = 0
	ack, _ := json.Marshal(map[string]string{"ack": id}) // never fails
	_ = wsutil.WriteClientText(s.conn, ack)              // may come too late: next reads the close frame then
}

func (s *webSocket) close() {
	if s.stop() { // the connection is still there
		_ = wsutil.WriteClientMessage(s.conn, ws.OpClose, ws.NewCloseFrameBody(ws.StatusNormalClosure, ""))
	}
	s.connection.close()
}
