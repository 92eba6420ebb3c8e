package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/zap"
)

// A pace says how a request is repeated: the intervals double from the first to the longest, with jitter of half.
type pace struct{ first, longest time.Duration }

var (
	normalPace = pace{500 * time.Millisecond, time.Minute}
	// finalPace is for a webhook that no configuration has any more.
	finalPace = pace{100 * time.Millisecond, 2 * time.Second}
)

// A request reports a batch of events. Its repeats are the same request.
type request struct {
	id     string
	body   []byte
	events int // how many
}

// send makes a request and repeats it until the receiver accepts it, a repeat makes no sense, or GiveUp has passed.
func (s *Sender) send(r request) error {
	end := time.Now().Add(s.settings.Load().GiveUp)
	if s.configured.Err() == nil {
		err := s.retry(s.configured, normalPace, end, r)
		if !errors.Is(err, errRemoved) {
			return err
		}
	}
	// The receiver may be up again, and the time until the next repeat may be longer than what is left.
	if s.finishBy.Before(end) {
		end = s.finishBy
	}
	return s.retry(s.ctx, finalPace, end, r)
}

// retry makes a request at least once, and repeats it until the given end or the end of ctx.
func (s *Sender) retry(ctx context.Context, p pace, end time.Time, r request) error {
	shortened := false
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := s.post(r)
		if err != nil {
			s.metrics.Failures.WithLabelValues(s.event).Inc()
		}
		left := time.Until(end)
		if later, ok := errors.AsType[*backoff.RetryAfterError](err); ok && later.Duration > left && left > 0 && !shortened {
			// The receiver asks for more time than there is left. So repeat the request once before the end. If the receiver
			// then asks for as much time again, that was the last repeat.
			later.Duration, shortened = left*9/10, true
		}
		return struct{}{}, err
	}, backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: p.first, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: p.longest,
	}), backoff.WithMaxElapsedTime(max(time.Until(end), 1)), // 0 would mean forever
		backoff.WithNotify(func(err error, wait time.Duration) {
			s.logger().Warn("a webhook failed and will be repeated",
				zap.Error(err), zap.Duration("after", wait), zap.Int("announcements", r.events))
		}))
	return err
}

// An answer that was read to its end leaves the connection for the next request. Beyond these bounds, another connection
// costs less.
const (
	// maxReplyRead is how many bytes of a receiver's answer are read.
	maxReplyRead = 64 << 10
	// maxReplyTime is how long the answer may take after its header. The request's timeout holds for all of it together.
	maxReplyTime = time.Second
)

// post posts a request once. Its error is permanent if a repeat makes no sense.
func (s *Sender) post(r request) error {
	settings := s.settings.Load()
	ctx, cancel := context.WithTimeout(s.ctx, settings.Timeout)
	defer cancel()
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, settings.URL.String(), bytes.NewReader(r.body))
	if err != nil {
		return backoff.Permanent(err)
	}
	now := time.Now()
	post.Header.Set("Content-Type", "application/json")
	post.Header.Set("User-Agent", "Caddy-Megaphone")
	post.Header.Set("Megaphone-Event", s.event)
	post.Header.Set(standardwebhooks.HeaderWebhookID, r.id)
	post.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	if settings.Signer != nil {
		signature, err := settings.Signer.Sign(r.id, now, r.body)
		if err != nil {
			return backoff.Permanent(err)
		}
		post.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	}
	response, err := s.client.Do(post)
	if err != nil {
		if ctx.Err() != nil && s.ctx.Err() == nil {
			return fmt.Errorf("no answer within %v", settings.Timeout)
		}
		return errors.Join(context.Cause(s.ctx), withoutURL(err))
	}
	defer func() { _ = response.Body.Close() }()
	defer time.AfterFunc(maxReplyTime, cancel).Stop()
	_, _ = io.CopyN(io.Discard, response.Body, maxReplyRead)
	return judge(response)
}

var errTooLarge = errors.New("it does not take so much at once")

// judge returns what a receiver's answer means (Standard Webhooks, "Deliverability and reliability"): nil if it accepts the
// request, and otherwise an error, which is permanent if a repeat makes no sense.
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
			wait := time.Duration(min(seconds, int(normalPace.longest/time.Second))) * time.Second // cannot overflow
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
