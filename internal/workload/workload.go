// Package workload has producers and consumers that use a site as applications do, and record what they do and see. A
// test disturbs the servers meanwhile. Package history says whether what the clients recorded fits together.
package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/history"
)

// Options say what the clients do. Producers and consumers choose by the seed, but their timing is real, so a run with
// the same seed is similar, not equal.
type Options struct {
	// Seed decides which producer and which consumer each channel gets, and what they do when.
	Seed uint64
	// Base returns the start of the URL for the next request. It may return another server each time.
	Base func() string
	// HTTP sends the requests. Those that clients break off have Close: see [Transport].
	HTTP *http.Client
	// Channels is how many channels there are. Each has one producer and one consumer.
	Channels int
	// Topics is how many topics there are, with some producers each. If there are any, channels join and leave them, and consumers
	// stay away for a time now and then, so that they miss messages.
	Topics int
	// Deleted is how many of the channels are deleted while their clients use them. It needs Announced.
	Deleted int
	// Announced gets the webhook channel_deleted, by which the clients learn what was not delivered.
	Announced *Announcements
	// Created, if it is set, is called when all channels are there.
	Created func()
	// Pause is the average time between two writes of a producer.
	Pause time.Duration
	// Reading, if it is set, keeps the consumers from reading before it is closed.
	Reading <-chan struct{}
	// Time is how long producers write, from when all channels are there.
	Time time.Duration
	// Least is how many attempts must be accepted: on a busy machine, producers write for longer than Time.
	Least int
	// Settle is how long consumers go on after the last write, at most, to get what is missing.
	Settle time.Duration
	// TimeoutIsUnknown says that the failure TIMEOUT in the reply to a batch or an ingest leaves the outcome unknown, as it
	// does where a store may have failed. By default it means that the message is in no channel. The reply to a single write
	// says which of the two it is.
	TimeoutIsUnknown bool
	// FullDelete says that once, late, a publish to a topic deletes the channels that have no room. It needs Announced.
	FullDelete bool
	// Late, if it is set, is how long a request without an answer may have its effect later. Servers may be killed, too, so an
	// ingest may end without closing the topics that it should close.
	Late time.Duration
}

// random returns one of the sequences of random numbers that the seed stands for.
func (o Options) random(i int) *rand.Rand {
	return rand.New(rand.NewPCG(o.Seed, uint64(i))) //nolint:gosec // a test repeats it
}

// Transports are the names of the ways to read. A channel uses one of them all the time.
var Transports = []string{"ndjson", "cursor", "sse", "poll", "websocket"}

// producers are the ways to write. A channel uses one of them all the time.
var producers = []func(*session, context.Context){(*session).write, (*session).writeKeyed, (*session).writeBatch, (*session).ingest}

// A session is one channel with its producer and its consumer.
type session struct {
	Options
	*history.Recorder

	rand                             *rand.Rand // the producer's
	producerAddress, consumerAddress string
	name                             string // in the history
	transport                        string
	habit                            habit // of joining topics
	next                             int   // the number of the last message

	writing context.Context //nolint:containedctx // of the producer
	stop    func()          // ends it
	deleted bool            // in the course of the run
	gone    bool            // the server says so
	noted   bool            // that the deletion was announced
}

// Run creates the channels and runs the clients. Producers write for o.Time and o.Least, and no longer than ctx. Consumers go on until
// everything that was accepted has arrived. Run fails if it cannot create the channels before ctx ends, if the deletion of
// one is not announced, or if a topic cannot be closed. The history says whether the rest is right.
func Run(ctx context.Context, r *history.Recorder, o Options) error {
	sessions := make([]*session, o.Channels)
	for i := range sessions {
		s := &session{Options: o, Recorder: r, rand: o.random(2 * i), name: fmt.Sprint(i)}
		s.transport = Transports[i%len(Transports)]
		s.deleted = i*o.Deleted/o.Channels < (i+1)*o.Deleted/o.Channels
		s.habit = habitOf(i, s)
		if err := r.Join(s.name, s.habit.topics(o.Topics), false, func() error { return s.create(ctx) }); err != nil {
			return fmt.Errorf("create: %w", err)
		}
		sessions[i] = s
	}
	if o.Created != nil {
		o.Created()
	}
	writing, cancel := context.WithCancel(ctx)
	defer cancel()
	go o.endWriting(writing, r, cancel)
	reading, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var writers, readers sync.WaitGroup
	for i, s := range sessions {
		s.writing, s.stop = context.WithCancel(writing)
		defer s.stop()
		writers.Go(func() { producers[i/len(Transports)%len(producers)](s, s.writing) })
		readers.Go(func() { s.consume(reading, o.random(2*i+1)) })
		if s.deleted {
			writers.Go(func() { s.delete(writing, o.random(-1-i)) })
		}
	}
	topics := newTopics(r, o, sessions)
	topics.run(writing, &writers)
	writers.Wait()
	err := topics.end(ctx)
	settle(r, o, sessions)
	stop()
	readers.Wait()
	for _, s := range sessions {
		if !s.announced() && (s.deleted || s.gone) {
			err = errors.Join(err, fmt.Errorf("channel %s was deleted, and nobody has announced that", s.name))
		}
	}
	return err
}

// endWriting ends what producers do once they have done enough.
func (o Options) endWriting(writing context.Context, r *history.Recorder, end func()) {
	for began := time.Now(); writing.Err() == nil && (time.Since(began) < o.Time || r.Accepted() < o.Least); {
		time.Sleep(5 * time.Millisecond)
	}
	end()
}

// settle waits until everything that was accepted has arrived, and all deletions are announced, but not too long.
func settle(r *history.Recorder, o Options, sessions []*session) {
	for deadline := time.Now().Add(o.Settle); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		announced := true
		for _, s := range sessions {
			announced = (s.announced() || !s.deleted && !s.gone) && announced
		}
		if announced && r.Missing() == 0 {
			return
		}
	}
}

// create creates the channel. It repeats that until ctx ends, since a server may be down.
func (s *session) create(ctx context.Context) error {
	for {
		var created struct{ ProducerAddress, ConsumerAddress string }
		status, text, err := s.post(ctx, "/create", nil, s.body())
		if err == nil && status == http.StatusOK {
			if err = json.Unmarshal(text, &created); err == nil {
				s.producerAddress, s.consumerAddress = created.ProducerAddress, created.ConsumerAddress
				return nil
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d %s %w", status, text, errors.Join(err, ctx.Err()))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// errNotFound says that there is no such object.
var errNotFound = errors.New("not found")

// insist repeats a request until it has an effect, for as long as clients wait for things to settle: a server may be down. If its
// object does not exist, it fails with errNotFound. Its effect is over when it returns.
func (s *session) insist(ctx context.Context, method, path string, body []byte) error {
	late := time.Duration(0)
	for deadline := time.Now().Add(s.Settle); ; time.Sleep(20 * time.Millisecond) {
		status, text, err := s.send(ctx, method, requestTime, path, nil, bytes.NewReader(body))
		switch {
		case err == nil && status == http.StatusOK:
			time.Sleep(late)
			return nil
		case err == nil && status == http.StatusNotFound:
			return errNotFound
		case time.Now().After(deadline):
			return fmt.Errorf("%s %s: %d %s %w", method, path, status, text, err)
		}
		late = s.Late
	}
}

// requestTime is how long a request of a producer may take. It is longer than a server holds a write.
const requestTime = 20 * time.Second

// post sends a request and reads the reply. It goes on when ctx ends: producers want to know what became of a write.
func (s *session) post(ctx context.Context, path string, header map[string]string, body io.Reader) (status int, text []byte, err error) {
	return s.postFor(ctx, requestTime, path, header, body)
}

// postFor is like post, but the producer breaks off after some time.
func (s *session) postFor(ctx context.Context, limit time.Duration, path string, header map[string]string, body io.Reader) (status int, text []byte, err error) {
	return s.send(ctx, http.MethodPost, limit, path, header, body)
}

// send sends a request with any method.
func (s *session) send(ctx context.Context, method string, limit time.Duration, path string, header map[string]string, body io.Reader) (status int, text []byte, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	return s.do(ctx, limit < requestTime, method, path, header, body)
}

// do is like send, but the request lasts until ctx ends. If that may be soon, the request needs a connection of its
// own, as from [Transport].
func (s *session) do(ctx context.Context, own bool, method, path string, header map[string]string, body io.Reader) (status int, text []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, method, s.Base()+path, body)
	if err != nil {
		return 0, nil, err
	}
	r.Close = own
	r.Header.Set("Content-Type", "application/json")
	for name, value := range header {
		r.Header.Set(name, value)
	}
	sent := false // a request with a key is sent again by net/http when its connection breaks
	r = r.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent = true }}))
	response, err := s.HTTP.Do(r)
	switch {
	case err != nil && !sent:
		return 0, nil, fmt.Errorf("%w: %w", errNeverSent, err)
	case err != nil:
		return 0, nil, err
	}
	defer response.Body.Close()
	text, err = io.ReadAll(response.Body)
	return response.StatusCode, text, err
}

// errNeverSent is the error of a request for which there was no connection.
var errNeverSent = errors.New("never sent")

// outcome says what a reply to a write means.
func (s *session) outcome(status int, text []byte, err error) (history.Outcome, string) {
	switch {
	case errors.Is(err, errNeverSent):
		return history.Refused, err.Error()
	case err != nil, status == http.StatusServiceUnavailable && strings.Contains(string(text), "not known whether"):
		return history.Unknown, fmt.Sprintf("%d %s %v", status, text, err)
	case status == http.StatusCreated, status == http.StatusAccepted:
		return history.Accepted, ""
	case status >= 500 && status != http.StatusServiceUnavailable:
		return history.Unknown, fmt.Sprintf("%d %s", status, text)
	default:
		return history.Refused, fmt.Sprintf("%d %s", status, text)
	}
}

// pause waits for about the time between two writes. It reports whether the producer should go on.
func (s *session) pause(ctx context.Context) bool {
	select {
	case <-time.After(time.Duration(s.rand.ExpFloat64() * float64(s.Pause))):
		return true
	case <-ctx.Done():
		return false
	}
}
