package megaphone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"time"
)

// An Event is a message as its consumer gets it (1.6).
type Event struct {
	// StreamID says which stream of the channel the message belongs to.
	StreamID string `json:"sid"`
	// ID is the event's unique id. It is the cursor with which a later read begins after the event.
	ID string `json:"eid"`
	// Time is when the server accepted the message.
	Time time.Time `json:"ts"`
	// Body is what the producer wrote, as JSON.
	Body json.RawMessage `json:"body"`
	// Missed is how many messages of topics the channel had no room for before this one (2.12).
	Missed int `json:"missed"`
	// End is not empty if a topic has ended: "done", or "aborted" if its producer is gone without a word (2.12). Body is null then.
	End string `json:"end"`

	// Gap tells that messages may be missing before this one: the server no longer knew the cursor of the read (2.2).
	Gap bool `json:"-"`
	// JSON is the whole event as it was sent, without a line feed.
	JSON []byte `json:"-"`
}

// A Transport is a way to read.
type Transport int

const (
	// NDJSON reads lines of JSON (1.6). It is what every site serves.
	NDJSON Transport = iota
	// SSE reads server-sent events (2.3).
	SSE
	// WebSocket reads by WebSocket, and acknowledges each event (2.4). It needs HTTP/1.1.
	WebSocket
	// Poll asks again and again, and the server waits up to 20 s with its answer (2.5). It gets through proxies that hold back
	// streams.
	Poll
)

// ReadOptions say how [Client.Read] reads. The zero value is fine.
type ReadOptions struct {
	Transport Transport

	// After is the id of the last event that the consumer has. The read begins after it.
	After string

	// IdleTimeout is how long the server may send nothing, not even a heartbeat, before a read counts as lost; 0 means a minute. It
	// must be longer than the server's setting heartbeat, which is 15 s by default. A poll may take 20 s longer. NDJSON has no
	// heartbeats, so a read of it that has begun and is silent for so long just ends, and the next one begins.
	IdleTimeout time.Duration

	// OnOpen, if not nil, is called each time that the server has begun to answer a read.
	OnOpen func()

	// OnError, if not nil, is called each time that a read fails and will be tried again after the pause. If it returns an
	// error, the reading ends with that error. Read calls it in its own goroutine.
	OnError func(err error, pause time.Duration) error
}

// Read reads a channel until it is gone, with as many reads as it takes. The sequence has each event once. Its last element may
// be an error, after which nothing comes: [ErrNotFound] if the channel is gone, [ErrTakenOver], an [Error] that will not pass such
// as 401, a URL of the client that is not valid, or the cause of ctx. Anything else is tried again, after a growing pause of at most
// 10 s, or what the server asks for.
//
// An event counts as processed when the body of the loop has ended, also by break. Only then does the server learn that it need
// not keep the event. If the process ends before, the next read brings the event again. So one loop loses nothing, and the body
// of the loop may take its time. When the loop ends, Read tells the server which event was the last, for up to 5 s. That needs a
// site that serves polls.
//
// A read takes the channel over from its present reader. If two consumers read the same channel, they take it from each other
// again and again, and each gets some of the events.
func (c *Client) Read(ctx context.Context, consumer string, o ReadOptions) iter.Seq2[Event, error] {
	if o.IdleTimeout == 0 {
		o.IdleTimeout = time.Minute
	}
	return func(yield func(Event, error) bool) {
		r := &reader{client: c, consumer: consumer, options: o, after: o.After, pause: minPause, seen: newSeen()}
		err := r.run(ctx, yield)
		if !errors.Is(err, ErrTakenOver) && !errors.Is(err, ErrNotFound) { // to settle would take it back, or is in vain
			r.settle(ctx)
		}
		if err != nil && !r.stopped {
			yield(Event{}, err)
		}
	}
}

const (
	// minRead is the shortest time from the start of a read to the start of the next one. A poll that has brought something is
	// followed by the next one at once.
	minRead = time.Second
	// minPause and maxPause are the shortest and the longest pause after an error.
	minPause = time.Second
	maxPause = 10 * time.Second
)

// A reader reads a channel.
type reader struct {
	client   *Client
	consumer string
	options  ReadOptions

	after   string // the last event that was processed
	gap     bool   // the next event has a gap before it
	opened  bool   // the server has answered a read at least once
	brought bool   // the last read has brought a message
	stopped bool   // the loop has ended by itself
	pause   time.Duration
	seen    *seen
}

// A source is one read. Only one goroutine uses it.
type source interface {
	// next returns the next event's JSON. It fails with [io.EOF] at a clean end.
	next() ([]byte, error)
	// processed tells that an event is processed, if the transport can tell the server. If that fails, next says why.
	processed(id string)
	close()
}

// run reads until the loop ends, or an error is final.
func (r *reader) run(ctx context.Context, yield func(Event, error) bool) error {
	for {
		begun := time.Now()
		err := r.read(ctx, yield)
		switch {
		case r.stopped:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isFinal(err):
			return err
		}
		wait := minRead - time.Since(begun)
		if r.options.Transport == Poll && r.brought {
			wait = 0
		}
		if err == nil {
			r.pause = minPause
		} else {
			wait = r.nextPause(err)
			if r.options.OnError != nil {
				if err := r.options.OnError(err, wait); err != nil {
					return err
				}
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// nextPause returns how long to wait after an error. Clients that lose their server together do not come back together.
func (r *reader) nextPause(err error) time.Duration {
	pause := r.pause
	r.pause = min(2*pause, maxPause)
	if refused, ok := errors.AsType[*Error](err); ok && refused.RetryAfter > 0 {
		pause = refused.RetryAfter
	}
	return pause + rand.N(pause/4) //nolint:gosec // no secret
}

// isFinal reports whether another read would fail like this one.
func isFinal(err error) bool {
	if _, ok := errors.AsType[*finalError](err); ok || errors.Is(err, ErrTakenOver) || errors.Is(err, ErrNotFound) {
		return true
	}
	status := 0
	if refused, ok := errors.AsType[*Error](err); ok {
		status = refused.Status
	} else if reply, ok := errors.AsType[*ReplyError](err); ok {
		status = reply.Status
	}
	switch status {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status >= 200 && status < 500
}

// A finalError means that another try would not help.
type finalError struct{ error }

// read does one read. It returns nil after a clean end.
func (r *reader) read(ctx context.Context, yield func(Event, error) bool) error {
	r.brought = false
	s, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r.opened = true
	if r.options.OnOpen != nil {
		r.options.OnOpen()
	}
	for {
		text, err := s.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("the connection broke: %w", err)
		}
		event := Event{JSON: text, Gap: r.gap}
		if err := json.Unmarshal(text, &event); err != nil || event.ID == "" {
			return &finalError{fmt.Errorf("this is not a message of Megaphone: %.200s", text)}
		}
		r.pause, r.brought = minPause, true
		if r.seen.add(event.ID) {
			r.gap = false
			r.stopped = !yield(event, nil)
		}
		r.after = event.ID
		if r.stopped {
			return nil
		}
		s.processed(event.ID)
	}
}

// settle tells the server which events are processed, so that nobody gets them again.
func (r *reader) settle(ctx context.Context) {
	if r.after == "" || !r.opened {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	q := r.request()
	q.query.Set("poll", "0s")
	if response, err := r.client.do(ctx, q, ndjsonType); err == nil { // else the next reader gets the last events again
		_ = response.Body.Close()
	}
}

// seen remembers the ids of the last events.
type seen struct {
	ids  map[string]bool
	ring []string
	next int
}

func newSeen() *seen { return &seen{ids: map[string]bool{}, ring: make([]string, 1000)} }

// add remembers an id, and reports whether it is new.
func (s *seen) add(id string) bool {
	if s.ids[id] {
		return false
	}
	delete(s.ids, s.ring[s.next])
	s.ids[id] = true
	s.ring[s.next] = id
	s.next = (s.next + 1) % len(s.ring)
	return true
}
