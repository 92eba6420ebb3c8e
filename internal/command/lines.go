package command

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/transport"
)

// A lineBatch is some whole lines of an input, encoded for sending.
type lineBatch struct {
	text  []byte
	lines int
	err   error // why the input ended, or nil if it goes on
}

// batchSize is roughly the most bytes in a batch. A longer line is a batch of its own.
const batchSize = 64 << 10

// readBatches reads lines in a goroutine of its own, because reading cannot be interrupted. A batch waits only for
// its first line, and has the lines that are there by then. The last batch has an error, which is [io.EOF] at the end
// of the input. After it, the channel is closed. encode turns a line, without its line end, into what is sent.
func readBatches(r io.Reader, encode func(line []byte) []byte) <-chan lineBatch {
	batches := make(chan lineBatch)
	go func() {
		defer close(batches)
		input := bufio.NewReaderSize(r, batchSize)
		for {
			var b lineBatch
			for more := true; more; {
				var line []byte
				line, b.err = input.ReadBytes('\n')
				if len(line) > 0 {
					b.text = append(b.text, encode(bytes.TrimRight(line, "\r\n"))...)
					b.lines++
				}
				buffered, _ := input.Peek(input.Buffered())
				more = b.err == nil && len(b.text) < batchSize && bytes.IndexByte(buffered, '\n') >= 0
			}
			batches <- b
			if b.err != nil {
				return
			}
		}
	}()
	return batches
}

const (
	// sendIdle is the longest pause between lines of one request. Caddy, and a proxy in front of it, may end a request that
	// sends nothing for a while: after a minute by default.
	sendIdle = 20 * time.Second
	// interruptGrace is how long an interrupted request may take to end and to be answered.
	interruptGrace = 2 * time.Second
)

// A lineSender sends lines, each of which is a message with its channel. A pause ends a request, and the next line
// begins another.
type lineSender struct {
	site    *site
	batches <-chan lineBatch
	result  *sendResult // the sum of all requests
	lines   int         // in all requests so far
}

// send sends all batches. It stops at the first request that fails. If ctx ends, send returns the cause, and the
// current request has [interruptGrace] to finish.
func (s *lineSender) send(ctx context.Context) error {
	for {
		// The pause may have broken an idle connection. net/http would not repeat a streamed request on another one.
		s.site.client.CloseIdleConnections()
		var b lineBatch
		select {
		case b = <-s.batches:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		inputErr := b.err
		if b.lines > 0 {
			var err error
			if inputErr, err = s.sendRequest(ctx, b); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(inputErr, io.EOF):
			return nil
		case inputErr != nil:
			return fmt.Errorf("cannot read the input: %w", inputErr)
		}
	}
}

// sendRequest sends batches in one request (protocol.md 2.6), beginning with b, and adds the reply to the result. It
// returns the error of the last batch that it has sent.
func (s *lineSender) sendRequest(ctx context.Context, b lineBatch) (inputErr, err error) {
	requestCtx, cancel := withGrace(ctx, interruptGrace)
	defer cancel()
	body, writer := io.Pipe()
	answered := make(chan struct{})
	var reply []byte
	go func() {
		defer close(answered)
		defer func() { _ = body.Close() }() // from now on nobody reads the pipe, so writes must fail
		reply, err = s.site.fetch(requestCtx, siteRequest{
			method: http.MethodPost,
			path:   "/write",
			header: http.Header{"Content-Type": {transport.NDJSONType}},
			body:   body,
		})
	}()

	lines, complete, inputErr := s.writeBatches(ctx, writer, b, answered)
	_ = writer.Close() // never fails
	<-answered
	if err == nil && !complete {
		err = &uncertainError{errors.New("the server answered before it had read everything")}
	}
	err = s.result.addReply(reply, err, s.lines, lines)
	s.lines += lines
	return inputErr, err
}

// writeBatches writes batches to a request, beginning with b. It stops when the input pauses or ends, when the server
// has answered, or when ctx ends. It returns how many lines it has tried to write, whether it wrote all of them, and
// the error of the last batch.
func (s *lineSender) writeBatches(
	ctx context.Context, w io.Writer, b lineBatch, answered <-chan struct{},
) (lines int, complete bool, inputErr error) {
	idle := time.NewTimer(sendIdle)
	defer idle.Stop()
	for {
		lines += b.lines
		if _, err := w.Write(b.text); err != nil {
			return lines, false, nil
		}
		if b.err != nil {
			return lines, true, b.err
		}
		idle.Reset(sendIdle)
		select {
		case b = <-s.batches:
		case <-idle.C:
			return lines, true, nil
		case <-ctx.Done():
			return lines, true, nil
		case <-answered:
			return lines, true, nil
		}
	}
}

// addReply adds the outcome of a request, from its reply or, if the request failed, from err. first is how many lines
// earlier requests had, and lines is how many this one had. addReply returns err, or an error if the reply is malformed.
func (r *sendResult) addReply(reply []byte, err error, first, lines int) error {
	if refused, ok := errors.AsType[*refusalError](err); ok {
		reply = refused.reply // has a result if the stream had begun
	}
	var part struct {
		sendResult

		Written *int `json:"written"`
	}
	malformed := json.Unmarshal(reply, &part)
	if malformed == nil && part.Written != nil {
		part.sendResult.Written = *part.Written
		r.add(part.sendResult, first)
		return err
	}
	if err == nil {
		err = &uncertainError{errors.New("the reply is not a valid result")}
	}
	if isUncertain(err) {
		r.Unknown = lines
	}
	return err
}

// withGrace returns a context that ends when the grace has passed after the end of ctx, with the same cause.
func withGrace(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(grace):
			cancel(context.Cause(ctx))
		case <-late.Done():
		}
	})
	return late, func() {
		stop()
		cancel(nil)
	}
}
