package megaphone

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
)

// An Ingest is one request that carries messages to any number of channels (2.6). The server delivers each message as it
// arrives. A full channel holds back its own messages only. An Ingest is for one goroutine at a time.
//
// Caddy ends a request that sends nothing for a minute, unless it is configured otherwise. So close an Ingest before a longer
// pause, and begin another one later.
type Ingest struct {
	body     *io.PipeWriter
	answered chan struct{}
	reply    []byte // once answered
	err      error
	broken   bool // a message could not be sent
}

// An IngestResult says what became of the messages of an [Ingest].
type IngestResult struct {
	// Written is how many messages the channels have taken.
	Written int `json:"written"`
	// Failures are the others, at most the first 1000 of them, and FailuresTotal is how many there are.
	Failures      []Failure `json:"failures"`
	FailuresTotal int       `json:"failuresTotal"`
}

// Ingest begins a streamed ingest. The caller must call Close. If ctx ends, so does the request. The topics in closes end with the
// request, after its messages (2.12): as "done" at Close, and as "aborted" if the request breaks before, for example because
// this process ends.
func (c *Client) Ingest(ctx context.Context, closes ...string) *Ingest {
	body, writer := io.Pipe()
	s := &Ingest{body: writer, answered: make(chan struct{})}
	go func() {
		defer close(s.answered)
		defer func() { _ = body.Close() }() // from now on nobody reads the pipe, so writes must fail
		s.reply, s.err = c.fetch(ctx, request{
			method: http.MethodPost, path: "/write", query: url.Values{"close": closes}, header: http.Header{"Content-Type": {ndjsonType}}, body: body,
		})
	}()
	return s
}

var errAnswered = errors.New("the server has answered already; Close tells more")

// Write sends a message. It fails if the request has ended; then Close says why. That a channel has taken the message is known
// only from Close.
func (s *Ingest) Write(m Message) error {
	line, err := encode(m)
	if err != nil {
		return err
	}
	return s.WriteLines(append(line, '\n'))
}

// WriteLines sends lines in the format of 2.6. Each must end with a line feed.
func (s *Ingest) WriteLines(lines []byte) error {
	if _, err := s.body.Write(lines); err != nil {
		s.broken = true
		return errAnswered
	}
	return nil
}

// Answered is closed when the server has answered, although Close was not called. Then nothing more can be written.
func (s *Ingest) Answered() <-chan struct{} { return s.answered }

// Close ends the request, and returns what became of the messages. If the request failed halfway, it returns the error and
// what is known of the messages until then. If the error is an [ErrUncertain], nothing is known of them. Close may be called
// again.
func (s *Ingest) Close() (IngestResult, error) {
	_ = s.body.Close() // never fails
	<-s.answered
	reply, err := s.reply, s.err
	if refused, ok := errors.AsType[*Error](err); ok {
		reply = refused.reply // has a result if the stream had begun
	}
	var result struct {
		IngestResult

		Written *int `json:"written"`
	}
	switch malformed := json.Unmarshal(reply, &result); {
	case malformed == nil && result.Written != nil:
		result.IngestResult.Written = *result.Written
		if err == nil && s.broken {
			err = errors.New("the server answered before it had read everything")
		}
		return result.IngestResult, err
	case err == nil:
		err = uncertain{errors.New("the reply is not a valid result")}
	}
	return IngestResult{}, err
}
