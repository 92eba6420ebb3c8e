package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
)

// An answer returns a receiver's answer to a request. Attempts are counted from 1.
type answer func(attempt int, r *http.Request) (*http.Response, error)

// A receiver is the other side of a webhook.
type receiver struct {
	answer answer

	mu       sync.Mutex
	attempts []*http.Request
	bodies   []string
	times    []time.Time
}

// RoundTrip implements [http.RoundTripper].
func (r *receiver) RoundTrip(request *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.attempts, r.bodies, r.times = append(r.attempts, request), append(r.bodies, string(body)), append(r.times, time.Now())
	attempt := len(r.attempts)
	r.mu.Unlock()
	return r.answer(attempt, request)
}

// count returns how many requests there were.
func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.attempts)
}

// accept is the answer of a receiver that accepts every request.
func accept(int, *http.Request) (*http.Response, error) { return status(200) }

// status returns an answer with a header, as names and values in turn.
func status(code int, header ...string) (*http.Response, error) {
	response := &http.Response{
		StatusCode: code, Status: fmt.Sprint(code, " ", http.StatusText(code)),
		Header: http.Header{}, Body: io.NopCloser(strings.NewReader("")),
	}
	for i := 0; i < len(header); i += 2 {
		response.Header.Set(header[i], header[i+1])
	}
	return response, nil
}

// testSender returns a sender, its receiver, and the metrics that it counts in.
func testSender(t *testing.T, event string, change func(*Settings), answer answer) (*Sender, *receiver, *Metrics) {
	t.Helper()
	settings := &Settings{
		URL:     &url.URL{Scheme: "https", User: url.UserPassword("user", "password"), Host: "receiver.example", Path: "/hook"},
		Timeout: 10 * time.Second, GiveUp: time.Hour, Queue: 100_000, Logger: zap.NewNop,
	}
	if change != nil {
		change(settings)
	}
	m := NewMetrics(func(name string) string { return name })
	s := NewSender(event, settings, m)
	r := &receiver{answer: answer}
	s.client.Transport = r
	return s, r, m
}

// wants checks what became of events.
func (m *Metrics) wants(t *testing.T, event string, delivered, lost, failures, queued int) {
	t.Helper()
	got := []float64{
		testutil.ToFloat64(m.Delivered.WithLabelValues(event)), testutil.ToFloat64(m.Lost.WithLabelValues(event)),
		testutil.ToFloat64(m.Failures.WithLabelValues(event)), testutil.ToFloat64(m.Queued.WithLabelValues(event)),
	}
	want := []float64{float64(delivered), float64(lost), float64(failures), float64(queued)}
	if !slices.Equal(got, want) {
		t.Errorf("delivered, lost, failures and queued are %v, want %v", got, want)
	}
}

// deletions returns the events of n deletions.
func deletions(n int) []Event {
	events := make([]Event, n)
	for i := range events {
		events[i] = Event{Channel: fmt.Sprint("main.", i), Undelivered: i}
	}
	return events
}

// end ends a sender as a configuration without the webhook does, and waits until it has ended.
func (s *Sender) end(t *testing.T) {
	t.Helper()
	if err := s.Destruct(); err != nil {
		t.Error(err)
	}
	<-s.done
	synctest.Wait()
	time.Sleep(maxLinger) // the timer of Destruct must not outlive the bubble
}

// TestWebhookAnswers checks what happens with each kind of receiver.
func TestWebhookAnswers(t *testing.T) {
	const event = ChannelDeleted
	for name, test := range map[string]struct {
		answer                    answer
		delivered, lost, failures int
		attempts                  int
		min, max                  time.Duration // how long it takes
	}{
		"one that accepts it": {
			answer:    func(int, *http.Request) (*http.Response, error) { return status(204) },
			delivered: 3, attempts: 1,
		},
		"one that fails twice": {
			answer: func(attempt int, _ *http.Request) (*http.Response, error) {
				if attempt < 3 {
					return status(500)
				}
				return status(200)
			},
			delivered: 3, failures: 2, attempts: 3, min: 750 * time.Millisecond, max: 2250 * time.Millisecond,
		},
		"one that cannot be reached at first": {
			answer: func(attempt int, _ *http.Request) (*http.Response, error) {
				if attempt == 1 {
					return nil, errors.New("connection refused")
				}
				return status(200)
			},
			delivered: 3, failures: 1, attempts: 2, min: 250 * time.Millisecond, max: 750 * time.Millisecond,
		},
		"one that is not found at first": {
			answer: func(attempt int, _ *http.Request) (*http.Response, error) {
				if attempt == 1 {
					return status(404)
				}
				return status(200)
			},
			delivered: 3, failures: 1, attempts: 2, min: 250 * time.Millisecond, max: 750 * time.Millisecond,
		},
		"one that never answers in time": {
			answer: func(_ int, r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			},
			lost: 3, failures: 7, attempts: 7, min: 70 * time.Second, max: 140 * time.Second,
		},
		"one that is slow, but not too slow": {
			answer: func(_ int, r *http.Request) (*http.Response, error) {
				select {
				case <-time.After(9 * time.Second):
					return status(200)
				case <-r.Context().Done():
					return nil, r.Context().Err()
				}
			},
			delivered: 3, attempts: 1, min: 9 * time.Second, max: 9 * time.Second,
		},
		"one that asks for time": {
			answer: func(attempt int, _ *http.Request) (*http.Response, error) {
				if attempt == 1 {
					return status(429, "Retry-After", "20")
				}
				return status(200)
			},
			delivered: 3, failures: 1, attempts: 2, min: 20 * time.Second, max: 20 * time.Second,
		},
		"one that asks for too much time": {
			answer: func(attempt int, _ *http.Request) (*http.Response, error) {
				if attempt == 1 {
					return status(503, "Retry-After", "86400")
				}
				return status(200)
			},
			delivered: 3, failures: 1, attempts: 2, min: normalPace.longest, max: normalPace.longest,
		},
		"one that asks for more time than a duration can be": {
			answer: func(attempt int, _ *http.Request) (*http.Response, error) {
				if attempt == 1 {
					return status(503, "Retry-After", "9223372037") // seconds, whose nanoseconds overflow
				}
				return status(200)
			},
			delivered: 3, failures: 1, attempts: 2, min: normalPace.longest, max: normalPace.longest,
		},
		"one that does not understand the request": {
			answer: func(int, *http.Request) (*http.Response, error) { return status(422) },
			lost:   3, failures: 1, attempts: 1,
		},
		"one that is gone": {
			answer: func(int, *http.Request) (*http.Response, error) { return status(410) },
			lost:   3, failures: 1, attempts: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, r, m := testSender(t, event, func(s *Settings) { s.GiveUp = 2 * time.Minute }, test.answer)
				start := time.Now()
				s.Enqueue(deletions(3))
				delivered, lost := m.Delivered.WithLabelValues(event), m.Lost.WithLabelValues(event)
				for synctest.Wait(); testutil.ToFloat64(delivered)+testutil.ToFloat64(lost) < 3; synctest.Wait() {
					time.Sleep(time.Millisecond)
				}
				took := time.Since(start)
				s.end(t)
				failures := test.failures
				if test.failures == 7 { // jitter makes it a few more or less
					failures = r.count()
				} else if r.count() != test.attempts {
					t.Errorf("%d requests, want %d", r.count(), test.attempts)
				}
				m.wants(t, event, test.delivered, test.lost, failures, 0)
				if took < test.min || took > test.max+5*time.Millisecond {
					t.Errorf("it took %v, want %v to %v", took, test.min, test.max)
				}
				for _, attempt := range r.attempts[1:] {
					if attempt.Header.Get("Webhook-Id") != r.attempts[0].Header.Get("Webhook-Id") {
						t.Error("a repeat has another id")
					}
				}
			})
		})
	}
}

func TestWebhookRedirectsAreNotFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r, m := testSender(t, ChannelDeleted, func(s *Settings) { s.GiveUp = time.Second },
			func(int, *http.Request) (*http.Response, error) {
				return status(307, "Location", "https://elsewhere.example/")
			})
		s.Enqueue(deletions(1))
		s.end(t)
		m.wants(t, ChannelDeleted, 0, 1, r.count(), 0)
		for _, attempt := range r.attempts {
			if attempt.URL.Host != "receiver.example" {
				t.Errorf("a request went to %s", attempt.URL.Host)
			}
		}
	})
}

// TestWebhookIsRepeatedBeforeItIsGivenUp: a receiver may ask for more time than is left until give_up. Then it gets exactly
// one more request within give_up.
func TestWebhookIsRepeatedBeforeItIsGivenUp(t *testing.T) {
	const giveUp = 30 * time.Second
	for name, recovers := range map[string]bool{"to a receiver that then accepts it": true, "to one that never does": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, r, m := testSender(t, ChannelDeleted, func(s *Settings) { s.GiveUp = giveUp },
					func(attempt int, _ *http.Request) (*http.Response, error) {
						switch {
						case attempt > 100:
							return status(410) // so that a sender that never stops fails this test and does not hang it
						case attempt > 1 && recovers:
							return status(200)
						}
						return status(503, "Retry-After", "60")
					})
				s.Enqueue(deletions(3))
				time.Sleep(giveUp)
				synctest.Wait()
				if recovers {
					m.wants(t, ChannelDeleted, 3, 0, 1, 0)
				} else {
					m.wants(t, ChannelDeleted, 0, 3, 2, 0)
				}
				if r.count() != 2 || r.times[1].Sub(r.times[0]) < giveUp/2 {
					t.Errorf("the requests were made at %v", r.times)
				}
				s.end(t)
			})
		})
	}
}

func TestWebhookWithoutSecretIsNotSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r, _ := testSender(t, ChannelDeleted, nil, accept)
		s.Enqueue(deletions(1))
		s.end(t)
		header := r.attempts[0].Header
		if header.Get("Webhook-Signature") != "" || header.Get("Webhook-Id") == "" || header.Get("Webhook-Timestamp") == "" {
			t.Errorf("header %v", header)
		}
	})
}

func TestWebhookErrorsKeepSecrets(t *testing.T) {
	err := withoutURL(&url.Error{Op: "Post", URL: "https://user:password@receiver.example/", Err: context.DeadlineExceeded})
	if strings.Contains(err.Error(), "password") {
		t.Error(err)
	}
}
