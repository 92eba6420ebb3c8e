package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/zap"

	"github.com/caddy-megaphone/megaphone/internal/warning"
)

// Configure changes the settings.
func (s *Sender) Configure(settings *Settings) { s.settings.Store(settings) }

// A Sender has the queue of one webhook, and brings what is in it to the receiver, in order, a batch at a time. All
// configurations with the webhook share it; the settings are those of the one that announces.
type Sender struct {
	event    string
	settings atomic.Pointer[Settings]
	metrics  *Metrics
	client   *http.Client

	mu      sync.Mutex
	queue   []Event
	ended   bool          // nobody takes from the queue any more
	wake    chan struct{} // receives a value when the queue is not empty
	dropped warning.Limiter

	steady context.Context // ends with errHurry when no configuration has the webhook any more
	hurry  context.CancelCauseFunc
	until  time.Time               // the end of ctx, once steady has ended
	ctx    context.Context         // of all requests
	giveUp context.CancelCauseFunc // fails what is left
	done   chan struct{}
}

// NewSender returns a sender with its goroutine, which Destruct ends.
func NewSender(event string, settings *Settings, m *Metrics) *Sender {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 1
	s := &Sender{
		event:   event,
		metrics: m,
		client: &http.Client{
			Transport: transport,
			// The specification has senders not follow redirects: what is told would go elsewhere.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		wake: make(chan struct{}, 1),
		done: make(chan struct{}),
	}
	s.ctx, s.giveUp = context.WithCancelCause(context.Background())
	s.steady, s.hurry = context.WithCancelCause(s.ctx)
	s.settings.Store(settings)
	// So that they are there from the start, as zero.
	m.Queued.WithLabelValues(s.event)
	m.Delivered.WithLabelValues(s.event)
	m.Lost.WithLabelValues(s.event)
	m.Failures.WithLabelValues(s.event)
	go s.run()
	return s
}

// Enqueue adds what is to be told, as far as there is room in the queue.
func (s *Sender) Enqueue(notices []Event) {
	limit := s.settings.Load().Queue
	s.mu.Lock()
	ended, room := s.ended, min(len(notices), max(0, limit-len(s.queue)))
	if ended { // a read may end after its configuration
		room = 0
	}
	s.queue = append(s.queue, notices[:room]...)
	s.metrics.Queued.WithLabelValues(s.event).Add(float64(room))
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	if lost := len(notices) - room; lost > 0 {
		s.metrics.Lost.WithLabelValues(s.event).Add(float64(lost))
		if lost := s.dropped.Due(lost); lost > 0 {
			why := "the queue of a webhook is full: announcements are lost"
			if ended {
				why = "a webhook is not configured any more: announcements are lost"
			}
			s.logger().Error(why, zap.Int64("lost", lost), zap.Int("queue", limit))
		}
	}
}

// take removes the next batch from the queue.
func (s *Sender) take() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next()
}

// takeLast is like take, but ends the queue if it is empty.
func (s *Sender) takeLast() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = len(s.queue) == 0
	return s.next()
}

func (s *Sender) next() []Event {
	n := 0
	for size := bodyFrame; n < len(s.queue); n++ {
		if size += s.queue[n].size(s.event); size > maxBody && n > 0 {
			break
		}
	}
	batch := s.queue[:n]
	s.queue = s.queue[len(batch):]
	if len(s.queue) == 0 {
		s.queue = nil // its memory is the batch's
	}
	s.metrics.Queued.WithLabelValues(s.event).Sub(float64(len(batch)))
	return batch
}

func (s *Sender) run() {
	defer close(s.done)
	defer s.client.CloseIdleConnections()
	for {
		if batch := s.take(); len(batch) > 0 {
			s.deliver(batch)
			continue
		}
		select {
		case <-s.wake:
		case <-s.steady.Done():
			batch := s.takeLast()
			if len(batch) == 0 {
				return
			}
			s.deliver(batch)
		}
	}
}

// deliver brings one batch to the receiver, or gives it up.
func (s *Sender) deliver(batch []Event) {
	body, err := encode(s.event, batch)
	if err == nil {
		err = s.send("msg_"+uuid.Must(uuid.NewV7()).String(), body, len(batch))
	}
	switch {
	case err == nil:
		s.metrics.Delivered.WithLabelValues(s.event).Add(float64(len(batch)))
	case errors.Is(err, errTooLarge) && len(batch) > 1:
		s.logger().Warn("a webhook's request is too large for the receiver: smaller ones follow", zap.Int("announcements", len(batch)))
		half := len(batch) / 2
		s.deliver(batch[:half])
		s.deliver(batch[half:])
	default:
		s.metrics.Lost.WithLabelValues(s.event).Add(float64(len(batch)))
		s.logger().Error("a webhook failed: announcements are lost", zap.Error(err), zap.Int("lost", len(batch)))
	}
}

// A pace is how a request is repeated: the intervals double from the first to the longest, with jitter of half.
type pace struct{ first, longest time.Duration }

var (
	steady = pace{500 * time.Millisecond, time.Minute}
	// hasty is for a webhook that is not configured any more.
	hasty = pace{100 * time.Millisecond, 2 * time.Second}
)

// send makes one request, and repeats it until the receiver takes it, there is no use in that, or it is given up.
func (s *Sender) send(id string, body []byte, announcements int) error {
	end := time.Now().Add(s.settings.Load().GiveUp)
	if s.steady.Err() == nil {
		err := s.retry(s.steady, steady, end, id, body, announcements)
		if !errors.Is(err, errHurry) {
			return err
		}
	}
	// The receiver may be up again, and the time until the next repeat is longer than what is left.
	if s.until.Before(end) {
		end = s.until
	}
	return s.retry(s.ctx, hasty, end, id, body, announcements)
}

// retry makes a request again and again, at least once, until a time or the end of ctx.
func (s *Sender) retry(ctx context.Context, p pace, end time.Time, id string, body []byte, announcements int) error {
	hastened := false
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := s.post(id, body)
		if err != nil {
			s.metrics.Failures.WithLabelValues(s.event).Inc()
		}
		left := time.Until(end)
		if later, ok := errors.AsType[*backoff.RetryAfterError](err); ok && later.Duration > left && left > 0 && !hastened {
			// The repeat would come too late, so it comes before that. It is the last one if the receiver still wants
			// as much time.
			later.Duration, hastened = left*9/10, true
		}
		return struct{}{}, err
	}, backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: p.first, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: p.longest,
	}), backoff.WithMaxElapsedTime(max(time.Until(end), 1)), // 0 would be for ever
		backoff.WithNotify(func(err error, wait time.Duration) {
			s.logger().Warn("a webhook failed and will be repeated", zap.Error(err), zap.Duration("after", wait), zap.Int("announcements", announcements))
		}))
	return err
}

// maxReplyRead is how much of a receiver's answer is read, in bytes, so that its connection can be used again.
const maxReplyRead = 64 << 10

// post sends one request. Its error is permanent if there is no use in repeating it.
func (s *Sender) post(id string, body []byte) error {
	hook := s.settings.Load()
	ctx, cancel := context.WithTimeout(s.ctx, hook.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL.String(), bytes.NewReader(body))
	if err != nil {
		return backoff.Permanent(err)
	}
	now := time.Now()
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "Caddy-Megaphone")
	r.Header.Set("Megaphone-Event", s.event)
	r.Header.Set(standardwebhooks.HeaderWebhookID, id)
	r.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	if hook.Signer != nil {
		signature, err := hook.Signer.Sign(id, now, body)
		if err != nil {
			return backoff.Permanent(err)
		}
		r.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	}
	response, err := s.client.Do(r)
	if err != nil {
		if ctx.Err() != nil && s.ctx.Err() == nil {
			return fmt.Errorf("no answer within %v", hook.Timeout)
		}
		return errors.Join(context.Cause(s.ctx), withoutURL(err))
	}
	defer func() { _ = response.Body.Close() }()
	_, _ = io.CopyN(io.Discard, response.Body, maxReplyRead)
	return judge(response)
}

var errTooLarge = errors.New("it does not take so much at once")

// judge says what a receiver's answer means (Standard Webhooks, "Deliverability and reliability").
func judge(response *http.Response) error {
	status := response.StatusCode
	err := fmt.Errorf("the receiver answered %s", response.Status)
	switch {
	case status >= 200 && status < 300:
		return nil
	case status >= 300 && status < 400:
		return fmt.Errorf("%w: redirects are not followed, configure the address that it names", err)
	}
	switch status {
	case http.StatusGone:
		return backoff.Permanent(fmt.Errorf("%w: it wants no more", err))
	case http.StatusRequestEntityTooLarge:
		return backoff.Permanent(fmt.Errorf("%w: %w", err, errTooLarge))
	case http.StatusBadRequest, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return backoff.Permanent(fmt.Errorf("%w: it does not take this request", err))
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if seconds, bad := strconv.Atoi(response.Header.Get("Retry-After")); bad == nil && seconds > 0 {
			wait := time.Duration(min(seconds, int(steady.longest/time.Second))) * time.Second // does not overflow
			return errors.Join(err, &backoff.RetryAfterError{Duration: wait})
		}
	}
	return err
}

// withoutURL returns an error of [http.Client] without the URL, which may have a password in it.
func withoutURL(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

func (s *Sender) logger() *zap.Logger {
	hook := s.settings.Load()
	return hook.Logger().Named("webhook").With(zap.String("event", s.event), zap.String("host", hook.URL.Host))
}

// Destruct implements [caddy.Destructor]: no configuration has the webhook any more. What is in the queue is
// brought to the receiver all the same, within bounds.
func (s *Sender) Destruct() error {
	ending.add(s)
	s.until = time.Now().Add(maxLinger)
	s.hurry(errHurry)
	time.AfterFunc(maxLinger, func() { s.giveUp(errGivenUp) })
	return nil
}

const (
	// maxLinger is how long a webhook that is not configured any more may take to finish.
	maxLinger = 30 * time.Second
	// MaxExitLinger is how long webhooks may take when the process exits, if it has so long.
	MaxExitLinger = 500 * time.Millisecond
)

var (
	errGivenUp = errors.New("the server stops, or the webhook is not configured any more")
	errHurry   = errors.New("the webhook is not configured any more")
)

// ending are the senders that are finishing.
var ending finishing

// Wait waits until all senders that are finishing have finished, within a time. What is left then counts as lost.
func Wait(limit time.Duration) { ending.wait(limit) }

type finishing struct {
	mu      sync.Mutex
	senders map[*Sender]struct{}
}

func (l *finishing) add(s *Sender) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.senders == nil {
		l.senders = map[*Sender]struct{}{}
	}
	l.senders[s] = struct{}{}
	go func() {
		<-s.done
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.senders, s)
	}()
}

// wait waits until all senders have finished, within a time. What is left then counts as lost.
func (l *finishing) wait(limit time.Duration) {
	l.mu.Lock()
	senders := slices.Collect(maps.Keys(l.senders))
	l.mu.Unlock()
	deadline := time.After(limit)
	for _, s := range senders {
		select {
		case <-s.done:
			continue
		case <-deadline:
		}
		for _, s := range senders {
			s.giveUp(errGivenUp)
		}
		break
	}
	for _, s := range senders {
		<-s.done // at once, since it has been told to give up
	}
}
