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

// A lineBatch is whole lines of an input, as they are to be sent.
type lineBatch struct {
	text  []byte
	lines int
	err   error // why there are no more; nil if there may be
}

// batchSize is about how many bytes a batch has at most, if its first line has less.
const batchSize = 64 << 10

// readBatches reads lines, in a goroutine of its own since that cannot be interrupted. What is there already comes
// together, and nothing waits for more. The last batch has an error, be it io.EOF. Each line goes through encode,
// without its end.
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
				there, _ := input.Peek(input.Buffered())
				more = b.err == nil && len(b.text) < batchSize && bytes.IndexByte(there, '\n') >= 0
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
	// sendIdle is the longest pause of the lines in one request. Caddy, and what may stand before it, end requests that
	// send nothing for a while: a minute, by default.
	sendIdle = 20 * time.Second
	// interruptGrace is how long a request still has when it is interrupted, to end and be answered.
	interruptGrace = 2 * time.Second
)

// stream sends lines, each a message with its channel, in as many requests as their pauses make of them.
func (s *site) stream(ctx context.Context, batches <-chan lineBatch, result *sendResult) error {
	for first := 0; ; {
		// They do not outlive a pause for certain, and a request with a stream is not repeated on another one.
		s.client.CloseIdleConnections()
		var b lineBatch
		select {
		case b = <-batches:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		lines, last := 0, b.err
		if b.lines > 0 {
			var err error
			if lines, last, err = s.ingest(ctx, b, batches, first, result); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(last, io.EOF):
			return nil
		case last != nil:
			return fmt.Errorf("reading what is to be sent: %w", last)
		}
		first += lines
	}
}

// ingest sends batches in one request (protocol.md 2.6), until they pause, end, or the server has enough of them, or ctx
// ends. It adds what became of them to the result, as lines from the first on, and returns how many lines it has sent,
// and the error of the last batch.
func (s *site) ingest(ctx context.Context, b lineBatch, batches <-chan lineBatch, first int, result *sendResult) (lines int, last, err error) {
	requestCtx, cancel := withGrace(ctx, interruptGrace)
	defer cancel()
	body, writer := io.Pipe()
	answered := make(chan struct{})
	var reply []byte
	go func() {
		defer close(answered)
		defer func() { _ = body.Close() }() // nobody reads what is written from now on
		reply, err = s.text(requestCtx, http.MethodPost, "/write", http.Header{"Content-Type": {transport.NDJSONType}}, body)
	}()

	idle := time.NewTimer(sendIdle)
	defer idle.Stop()
	whole := true // the server has taken all that was sent
	for more := true; more; {
		lines += b.lines
		if _, err := writer.Write(b.text); err != nil {
			whole = false
			break
		}
		if last = b.err; last != nil {
			break
		}
		idle.Reset(sendIdle)
		select {
		case b = <-batches:
		case <-idle.C:
			more = false
		case <-ctx.Done():
			more = false
		case <-answered:
			more = false
		}
	}
	_ = writer.Close() // never fails
	<-answered
	if err == nil && !whole {
		err = &uncertainError{errors.New("the server has answered before it was sent everything")}
	}
	return lines, last, result.conclude(reply, err, first, lines)
}

// conclude adds what became of a request with lines from the first on, by its reply or its error, and returns the error.
func (r *sendResult) conclude(reply []byte, err error, first, lines int) error {
	if refused, ok := errors.AsType[*refusalError](err); ok {
		reply = refused.reply // has a result if the stream has begun
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
		err = &uncertainError{errors.New("the reply is not understood")}
	}
	if _, ok := errors.AsType[*uncertainError](err); ok {
		r.Unknown = lines
	}
	return err
}

// withGrace returns a context that ends so much later than ctx, for the same cause.
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
