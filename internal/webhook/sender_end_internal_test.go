package webhook

import (
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestWebhookQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		s, _, m := testSender(t, ChannelDeleted, func(s *Settings) { s.Queue = 10 },
			func(int, *http.Request) (*http.Response, error) {
				<-block
				return status(200)
			})
		s.Enqueue(deletions(1))
		synctest.Wait() // until the event is being sent, so the queue is empty
		s.Enqueue(deletions(8))
		s.Enqueue(deletions(5))
		m.wants(t, ChannelDeleted, 0, 3, 0, 10)
		close(block)
		s.end(t)
		m.wants(t, ChannelDeleted, 11, 3, 0, 0)
	})
}

// TestEventsAfterTheEndAreLost: a read may end after its configuration. The metrics count its event as lost.
func TestEventsAfterTheEndAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, m := testSender(t, ReaderDisconnected, nil, accept)
		s.end(t)
		s.Enqueue(deletions(3))
		m.wants(t, ReaderDisconnected, 0, 3, 0, 0)
	})
}

// TestLossesAreAddedUp: the log has a line about lost events only now and then, with the number of events that were lost
// since the line before.
func TestLossesAreAddedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		logged, logger := observer.New(zap.DebugLevel)
		s, _, _ := testSender(t, ChannelDeleted, func(s *Settings) {
			s.Queue, s.Logger = 10, func() *zap.Logger { return zap.New(logged) }
		}, func(int, *http.Request) (*http.Response, error) {
			<-block
			return status(200)
		})
		s.Enqueue(deletions(1))
		synctest.Wait() // until the event is being sent
		for range 3 {
			s.Enqueue(deletions(15))
		}
		time.Sleep(10 * time.Second)
		s.Enqueue(deletions(15))
		var lost []any
		for _, entry := range logger.FilterMessageSnippet("full").All() {
			lost = append(lost, entry.ContextMap()["lost"])
		}
		if want := []any{int64(5), int64(45)}; !slices.Equal(lost, want) {
			t.Errorf("the log says that %v were lost, want %v", lost, want)
		}
		close(block)
		s.end(t)
	})
}

// TestARemovedWebhookEmptiesItsQueue, but gives up after a while.
func TestARemovedWebhookEmptiesItsQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := time.Now().Add(10 * time.Second)
		s, _, m := testSender(t, ChannelDeleted, nil, func(int, *http.Request) (*http.Response, error) {
			if time.Now().Before(up) {
				return status(502)
			}
			return status(200)
		})
		s.Enqueue(deletions(5))
		s.end(t)
		if lost := testutil.ToFloat64(m.Lost.WithLabelValues(ChannelDeleted)); lost != 0 {
			t.Errorf("%v events are lost", lost)
		}

		s, _, m = testSender(t, ChannelDeleted, nil, func(int, *http.Request) (*http.Response, error) { return status(502) })
		s.Enqueue(deletions(5))
		start := time.Now()
		if err := s.Destruct(); err != nil {
			t.Error(err)
		}
		<-s.done
		if took := time.Since(start); took > maxLinger || took < maxLinger-2*finalPace.longest {
			t.Errorf("given up after %v", took)
		}
		if lost := testutil.ToFloat64(m.Lost.WithLabelValues(ChannelDeleted)); lost != 5 {
			t.Errorf("%v events are lost", lost)
		}
	})
}

// TestARemovedWebhookIsTriedAtOnce: it does not wait for the next repeat, which may be a minute away. The repeats after that
// come soon.
func TestARemovedWebhookIsTriedAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		after    time.Duration // how long the receiver is still down after the removal
		header   []string
		delivers time.Duration // how long after the removal the events must be delivered
	}{
		"to a receiver that is up again":        {0, nil, 0},
		"to one that is up soon":                {400 * time.Millisecond, nil, 2 * time.Second},
		"to one that is up late":                {20 * time.Second, nil, 23 * time.Second},
		"to one that has asked for time before": {0, []string{"Retry-After", "60"}, 0},
		"to one that still asks for time":       {time.Second, []string{"Retry-After", "60"}, maxLinger},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				up := time.Now().Add(time.Hour)
				s, r, m := testSender(t, ChannelDeleted, nil, func(int, *http.Request) (*http.Response, error) {
					if time.Now().Before(up) {
						return status(503, test.header...)
					}
					return status(200)
				})
				s.Enqueue(deletions(5))
				time.Sleep(200 * time.Second)
				synctest.Wait()
				before, removed := r.count(), time.Now()
				up = removed.Add(test.after)
				if err := s.Destruct(); err != nil {
					t.Error(err)
				}
				<-s.done
				if took := time.Since(removed); took > test.delivers {
					t.Errorf("it took %v and %d requests, want at most %v", took, r.count()-before, test.delivers)
				}
				m.wants(t, ChannelDeleted, 5, 0, r.count()-1, 0)
				if n := r.count() - before; n > 30 {
					t.Errorf("there were %d requests", n)
				}
				time.Sleep(maxLinger)
			})
		})
	}
}

func TestExitWaitsForWebhooksWithinBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var senders []*Sender
		for range 3 {
			s, _, m := testSender(t, ChannelDeleted, nil, func(_ int, r *http.Request) (*http.Response, error) {
				select {
				case <-r.Context().Done():
					return nil, r.Context().Err()
				case <-time.After(time.Second):
					return status(200)
				}
			})
			defer func() {
				m.wants(t, ChannelDeleted, 0, 2, int(testutil.ToFloat64(m.Failures.WithLabelValues(ChannelDeleted))), 0)
			}()
			s.Enqueue(deletions(2))
			senders = append(senders, s)
		}
		start := time.Now()
		for _, s := range senders {
			if err := s.Destruct(); err != nil {
				t.Error(err)
			}
		}
		Wait(MaxExitLinger)
		if took := time.Since(start); took != MaxExitLinger {
			t.Errorf("the exit waits for %v", took)
		}
		time.Sleep(maxLinger)
		synctest.Wait()
		if len(finishing.senders) != 0 {
			t.Errorf("%d senders are left", len(finishing.senders))
		}
	})
}
