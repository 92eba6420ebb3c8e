package workload

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/history"
)

// value returns the value of the next message.
func (s *session) value() string {
	s.next++
	return fmt.Sprintf("%s-%d", s.name, s.next)
}

// attempt sends a write and records it. It returns the outcome.
func (s *session) attempt(ctx context.Context, limit time.Duration, value, key string) history.Outcome {
	w := history.Write{Channel: s.name, Value: value, Keyed: key != "", Start: s.Now()}
	header := map[string]string{}
	if key != "" {
		header["Idempotency-Key"] = key
	}
	status, text, err := s.postFor(ctx, limit, "/write/"+s.producerAddress+"/s", header, bytes.NewReader(fmt.Appendf(nil, "%q", value)))
	w.Outcome, w.Detail = s.outcome(status, text, err)
	s.gone = s.gone || status == http.StatusNotFound
	s.Write(w)
	return w.Outcome
}

// write writes one message after the other, each once.
func (s *session) write(ctx context.Context) {
	for !s.gone && s.pause(ctx) {
		s.attempt(ctx, requestTime, s.value(), "")
	}
}

// writeKeyed writes one message after the other. Sometimes it breaks off a request. It repeats each message until the
// server accepts it.
func (s *session) writeKeyed(ctx context.Context) {
	for !s.gone && s.pause(ctx) {
		value := s.value()
		key := "key-" + value
		if s.rand.IntN(50) == 0 {
			s.ChannelFault(s.name, "its producer breaks off", func() {
				s.attempt(ctx, time.Duration(s.rand.IntN(int(2*time.Millisecond))), value, key)
			})
		}
		for s.attempt(ctx, requestTime, value, key) != history.Accepted && ctx.Err() == nil && !s.gone {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// A failure is one of a batch or an ingest.
type failure struct {
	Channel, Reason string
	Index           int
}

// A result is the reply to a batch or an ingest. Only that of an ingest says how many messages were written, and how many
// failures there are.
type result struct {
	Failures               []failure
	Written, FailuresTotal *int
}

// outcomes says what became of each message of a batch or an ingest.
func (s *session) outcomes(n, status int, text []byte, err error) ([]history.Outcome, string) {
	all, detail := s.outcome(status, text, err)
	outcomes := make([]history.Outcome, n) // unknown
	var r result
	if err != nil || json.Unmarshal(text, &r) != nil {
		return outcomes, detail
	}
	known := n // how many the reply tells of
	if all != history.Accepted {
		if r.Written == nil || r.FailuresTotal == nil {
			return outcomes, detail
		}
		known = *r.Written + *r.FailuresTotal // the server has not read the others
	}
	for i := range outcomes {
		outcomes[i] = history.Accepted
		if i >= known {
			outcomes[i] = history.Refused
		}
	}
	for _, f := range r.Failures {
		if f.Index < 0 || f.Index >= n {
			s.Wrong("the reply to %d messages tells of a failure of message %d: %s", n, f.Index, text)
			return make([]history.Outcome, n), string(text)
		}
		outcomes[f.Index] = history.Refused
		if f.Reason == "TIMEOUT" && s.TimeoutIsUnknown || f.Reason == "INTERNAL_SERVER_ERROR" {
			outcomes[f.Index] = history.Unknown
		}
	}
	return outcomes, string(text)
}

// writeBatch writes batches of a few messages.
func (s *session) writeBatch(ctx context.Context) {
	type message struct {
		StreamID string `json:"streamId"`
		Body     string `json:"body"`
	}
	for s.pause(ctx) {
		start := s.Now()
		messages := make([]message, 1+s.rand.IntN(5))
		for i := range messages {
			messages[i] = message{"s", s.value()}
		}
		body, _ := json.Marshal(map[string]any{"channels": []string{s.producerAddress}, "messages": messages})
		status, text, err := s.post(ctx, "/write-batch", nil, bytes.NewReader(body))
		outcomes, detail := s.outcomes(len(messages), status, text, err)
		if err == nil && status != http.StatusCreated && status < 500 { // the whole batch was refused
			for i := range outcomes {
				outcomes[i] = history.Refused
			}
		}
		for i, m := range messages {
			s.Write(history.Write{Channel: s.name, Value: m.Body, Start: start, Outcome: outcomes[i], Detail: detail})
		}
	}
}

// ingest streams lines, one request after the other.
func (s *session) ingest(ctx context.Context) {
	for s.pause(ctx) {
		s.stream(ctx, 0, "/write", 1+s.rand.IntN(50), func() (history.Write, string) {
			w := history.Write{Channel: s.name, Value: s.value()}
			return w, fmt.Sprintf(`{"channel":%q,"streamId":"s","body":%q}`, s.producerAddress, w.Value)
		})
	}
}

// stream sends lines in one request, which it breaks off after some time. If limit is 0, it waits for requestTime after each line.
// next returns what the next line writes, and the line. It reports whether the request ended well.
func (s *session) stream(ctx context.Context, limit time.Duration, path string, n int, next func() (history.Write, string)) (ended bool) {
	sending, breakOff := context.WithCancel(context.WithoutCancel(ctx))
	defer breakOff()
	timer := time.AfterFunc(cmp.Or(limit, requestTime), breakOff)
	defer timer.Stop()
	var lines []history.Write
	body, pipe := io.Pipe()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		defer func() { _ = pipe.Close() }()
		for range n {
			w, line := next()
			w.Start = s.Now()
			lines = append(lines, w)
			if _, err := io.WriteString(pipe, line+"\n"); err != nil {
				return // the request has ended
			}
			if limit == 0 {
				timer.Reset(requestTime)
			}
			if !s.pause(ctx) {
				return
			}
		}
	}()
	status, text, err := s.do(sending, limit > 0, http.MethodPost, path, map[string]string{"Content-Type": "application/x-ndjson"}, body)
	_ = body.CloseWithError(io.ErrClosedPipe)
	<-sent
	outcomes, detail := s.outcomes(len(lines), status, text, err)
	end := s.Now()
	for i, w := range lines {
		w.Outcome, w.Detail, w.End = outcomes[i], detail, end
		// Lines of one request are in order, so the next line began after this one was accepted. Those to topics have a number.
		if w.Outcome == history.Accepted && i+1 < len(lines) && w.Topic == "" {
			w.End = lines[i+1].Start - 1
		}
		s.Write(w)
	}
	return err == nil && status == http.StatusCreated
}
