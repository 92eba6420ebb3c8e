package webhook

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-megaphone/megaphone/internal/guard"
)

// A panickyCore is the core of a log that panics.
type panickyCore struct{ zapcore.Core }

func (c panickyCore) Enabled(zapcore.Level) bool    { return true }
func (c panickyCore) With([]zap.Field) zapcore.Core { return c }
func (c panickyCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return ce.AddCore(e, c)
}
func (panickyCore) Write(zapcore.Entry, []zap.Field) error { panic("log") }

// TestADeliveryThatPanicsLosesItsEventsOnly: the sender goes on with the next events, and still ends.
func TestADeliveryThatPanicsLosesItsEventsOnly(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Settings)
		first  answer
	}{
		"the transport": {nil, func(int, *http.Request) (*http.Response, error) { panic("boom") }},
		"the log": {
			func(s *Settings) { s.Logger = func() *zap.Logger { return zap.New(panickyCore{zapcore.NewNopCore()}) } },
			func(int, *http.Request) (*http.Response, error) { return status(http.StatusGone) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			places := make(chan guard.Place, 10)
			before := guard.OnPanic(func(place guard.Place, _ any, _ []byte) { places <- place })
			defer func() { guard.OnPanic(before) }()
			synctest.Test(t, func(t *testing.T) {
				s, _, m := testSender(t, ChannelDeleted, test.change, func(attempt int, r *http.Request) (*http.Response, error) {
					if attempt == 1 {
						return test.first(attempt, r)
					}
					return accept(attempt, r)
				})
				s.Enqueue(deletions(3))
				synctest.Wait()
				s.Enqueue(deletions(2))
				synctest.Wait()
				failures := 0
				if name == "the log" {
					failures = 1
				}
				m.wants(t, ChannelDeleted, 2, 3, failures, 0)
				s.end(t)
			})
			if len(places) != 1 || <-places != guard.Webhook {
				t.Errorf("%d more panics were reported", len(places))
			}
		})
	}
}

// A drip is the body of an answer that comes in drops, for ever. It ends with the request.
type drip struct{ request *http.Request }

func (d drip) Read(p []byte) (int, error) {
	select {
	case <-time.After(100 * time.Millisecond):
		p[0] = 'x'
		return 1, nil
	case <-d.request.Context().Done():
		return 0, d.request.Context().Err()
	}
}

func (drip) Close() error { return nil }

// TestAReceiverThatDripsItsBodyHoldsUpNoEvents: the status is all that matters, so the events after it wait no longer than
// the rest of the body may take. That is never longer than what is left of the timeout.
func TestAReceiverThatDripsItsBodyHoldsUpNoEvents(t *testing.T) {
	for name, test := range map[string]struct{ timeout, header, want time.Duration }{
		"an answer at once": {10 * time.Second, 0, maxReplyTime},
		"a late answer":     {10 * time.Second, 9500 * time.Millisecond, 10 * time.Second},
		"a short timeout":   {300 * time.Millisecond, 0, 300 * time.Millisecond},
		"no answer in time": {300 * time.Millisecond, time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				s, r, m := testSender(t, ChannelDeleted, func(s *Settings) { s.Timeout = test.timeout },
					func(_ int, r *http.Request) (*http.Response, error) {
						select {
						case <-time.After(test.header):
						case <-r.Context().Done():
							return nil, errors.New("cut off")
						}
						response, err := status(http.StatusOK)
						response.Body = drip{r}
						return response, err
					})
				s.Enqueue(deletions(1))
				synctest.Wait()
				s.Enqueue(deletions(1))
				time.Sleep(25 * time.Second)
				synctest.Wait()
				if test.want == 0 {
					if attempt := r.times[1].Sub(start); attempt > test.timeout+normalPace.first*3/2 {
						t.Errorf("the next attempt was after %v", attempt)
					}
				} else {
					if took := r.times[1].Sub(start); took != test.want {
						t.Errorf("the next request was after %v, want %v", took, test.want)
					}
					m.wants(t, ChannelDeleted, 2, 0, 0, 0)
				}
				s.giveUp(errGivenUp)
				s.end(t)
			})
		})
	}
}
