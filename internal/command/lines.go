package command

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	megaphone "github.com/caddy-megaphone/megaphone/client/go"
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
	site    *megaphone.Client
	batches <-chan lineBatch
	result  *sendResult // the sum of all requests
	lines   int         // in all requests so far

	passed *atomic.Int64 // counts the lines that were written to a request
}

// send sends all batches. It stops at the first request that fails. If ctx ends, send returns the cause, and the
// current request has [interruptGrace] to finish.
func (s *lineSender) send(ctx context.Context) error {
	for {
		// The pause may have broken an idle connection. net/http would not repeat a streamed request on another one.
		s.site.HTTP.CloseIdleConnections()
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
	ingest := s.site.Ingest(requestCtx)
	lines, inputErr := s.writeBatches(ctx, ingest, b)
	part, err := ingest.Close()
	if isUncertain(err) {
		s.result.Unknown = lines
	}
	s.result.add(part, s.lines)
	s.lines += lines
	return inputErr, siteError(err)
}

// writeBatches writes batches to a request, beginning with b. It stops when the input pauses or ends, when the server
// has answered, or when ctx ends. It returns how many lines it has tried to write, and the error of the last batch.
func (s *lineSender) writeBatches(ctx context.Context, ingest *megaphone.Ingest, b lineBatch) (lines int, inputErr error) {
	idle := time.NewTimer(sendIdle)
	defer idle.Stop()
	for {
		lines += b.lines
		if err := ingest.WriteLines(b.text); err != nil {
			return lines, nil
		}
		s.passed.Add(int64(b.lines))
		if b.err != nil {
			return lines, b.err
		}
		idle.Reset(sendIdle)
		select {
		case b = <-s.batches:
		case <-idle.C:
			return lines, nil
		case <-ctx.Done():
			return lines, nil
		case <-ingest.Answered():
			return lines, nil
		}
	}
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
