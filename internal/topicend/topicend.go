// Package topicend closes topics when the streamed ingest ends that fills them (protocol.md 2.12): as done if it ends
// cleanly, and as aborted otherwise, so that a producer that dies leaves nobody waiting.
//
// The package knows the contract of package broker, and nothing of requests.
package topicend

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
)

const (
	// maxTime is how long the Broker may take to close the topics of an ingest.
	maxTime = 5 * time.Second
	// maxRetry is how long topics are tried again that could not be closed after their producer has gone.
	maxRetry = time.Minute
	// firstRetry is the time until the first try. Later ones double, up to maxRetryDelay.
	firstRetry    = 500 * time.Millisecond
	maxRetryDelay = 10 * time.Second
)

// Ends are the ingests of a Broker that are open and will close topics. The zero value has none. Any number of goroutines may
// use Ends.
type Ends struct {
	mu   sync.Mutex
	open map[*End]struct{}
	over chan struct{} // closed by Close; nil while there was no End
}

// An End closes the topics of one ingest.
type End struct {
	ends   *Ends
	topics broker.Topics
	names  []string // that are not closed yet
	limits broker.Limits
	logger func() *zap.Logger

	begun atomic.Bool   // somebody closes the topics
	done  chan struct{} // closed when that is over
	over  <-chan struct{}
}

// Begin returns an End for topics with these names. The caller must call Done or Abort. logger returns the log for topics that
// could not be closed when there was nobody to tell. Begin fails with [broker.ErrClosed] after Close.
func (es *Ends) Begin(topics broker.Topics, names []string, l broker.Limits, logger func() *zap.Logger) (*End, error) {
	es.mu.Lock()
	defer es.mu.Unlock()
	if es.over == nil {
		es.over, es.open = make(chan struct{}), map[*End]struct{}{}
	}
	if isOver(es.over) {
		return nil, broker.ErrClosed
	}
	e := &End{ends: es, topics: topics, names: names, limits: l, logger: logger, done: make(chan struct{}), over: es.over}
	es.open[e] = struct{}{}
	return e, nil
}

func isOver(over <-chan struct{}) bool {
	select {
	case <-over:
		return true
	default:
		return false
	}
}

// Close closes the topics of all open ingests as aborted, before the Broker is closed. It returns when that is done, or after
// the limit.
func (es *Ends) Close(limit time.Duration) {
	es.mu.Lock()
	if es.over == nil {
		es.over = make(chan struct{})
	}
	if !isOver(es.over) {
		close(es.over)
	}
	open := make([]*End, 0, len(es.open))
	for e := range es.open {
		open = append(open, e)
	}
	es.mu.Unlock()
	for _, e := range open {
		guard.Go(guard.Exit, e.Abort)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for _, e := range open {
		select {
		case <-e.done:
		case <-timer.C: // a Broker that does not answer
			return
		}
	}
}

// Done closes the topics as done. The caller tells the producer of an error. It does nothing after another call of Done or Abort,
// or on nil.
func (e *End) Done() error {
	if e == nil || !e.begun.CompareAndSwap(false, true) {
		return nil
	}
	defer e.finish()
	return e.try(broker.EndDone)
}

// Abort closes the topics as aborted. If that fails, it tries again for a minute, and does not wait for that. It does nothing after
// another call of Done or Abort, or on nil.
func (e *End) Abort() {
	if e == nil || !e.begun.CompareAndSwap(false, true) {
		return
	}
	tried := false
	defer func() { // after a panic too
		if !tried {
			e.finish()
		}
	}()
	err := e.try(broker.EndAborted)
	if err != nil && !errors.Is(err, broker.ErrClosed) {
		tried = true
		e.logger().Warn("topics could not be closed after their producer had gone: trying again",
			zap.Strings("topics", e.names), zap.Error(err))
		guard.Go(guard.Broker, func() { e.retry(err) }, e.finish)
		return
	}
	e.log(err)
}

// retry tries until the topics are closed, for maxRetry. If the server exits, it tries once more.
func (e *End) retry(err error) {
	defer e.finish()
	began := time.Now()
	timer := time.NewTimer(firstRetry)
	defer timer.Stop()
	for delay := firstRetry; err != nil && !errors.Is(err, broker.ErrClosed) && time.Since(began) < maxRetry; {
		last := false
		select {
		case <-timer.C:
		case <-e.over:
			last = true
		}
		err = e.try(broker.EndAborted)
		if last {
			break
		}
		delay = min(2*delay, maxRetryDelay)
		timer.Reset(delay)
	}
	e.log(err)
}

// log logs topics that stay open although their producer has gone.
func (e *End) log(err error) {
	if err != nil {
		e.logger().Error("topics stay open although their producer has gone: close them, or their members wait",
			zap.Strings("topics", e.names), zap.Error(err))
	}
}

// try closes the topics that are still open. The producer may be gone, so its context does not count.
func (e *End) try(how string) error {
	ctx, cancel := context.WithTimeout(context.Background(), maxTime)
	defer cancel()
	var errs []error
	var left []string
	for _, name := range e.names {
		end, err := broker.NewEnd(name, how)
		if err == nil {
			err = e.topics.CloseTopic(ctx, name, end, e.limits)
		}
		if err != nil {
			errs, left = append(errs, err), append(left, name)
		}
	}
	e.names = left
	return errors.Join(errs...)
}

// finish ends the End.
func (e *End) finish() {
	e.ends.mu.Lock()
	defer e.ends.mu.Unlock()
	if _, open := e.ends.open[e]; open {
		delete(e.ends.open, e)
		close(e.done)
	}
}
