package topicend_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/guard"
	"github.com/caddy-megaphone/megaphone/internal/topicend"
)

// A fake is a Broker that only closes topics.
type fake struct {
	broker.Topics

	mu     sync.Mutex
	fails  map[string]error // by topic
	closed []string         // each topic with how, in order
	tries  int
}

func (f *fake) CloseTopic(ctx context.Context, topic string, end *broker.Message, _ broker.Limits) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tries++
	switch topic {
	case "hangs":
		<-ctx.Done()
		return ctx.Err()
	case "panics":
		panic("the Broker panics")
	}
	if err := f.fails[topic]; err != nil {
		return err
	}
	f.closed = append(f.closed, topic+" "+end.End())
	return nil
}

func (f *fake) fail(topic string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails = map[string]error{topic: err}
}

func (f *fake) wants(t *testing.T, closed ...string) {
	t.Helper()
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.closed, closed) {
		t.Errorf("closed %q, want %q", f.closed, closed)
	}
}

// begin returns an End for topics, and what it logs.
func begin(t *testing.T, ends *topicend.Ends, f *fake, topics ...string) (*topicend.End, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	e, err := ends.Begin(f, topics, broker.Limits{}, func() *zap.Logger { return zap.New(core) })
	if err != nil {
		t.Fatal(err)
	}
	return e, logs
}

func TestTheFirstCallCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends topicend.Ends
		f := new(fake)
		e, _ := begin(t, &ends, f, "a", "b")
		if err := e.Done(); err != nil {
			t.Error(err)
		}
		e.Abort()
		other, _ := begin(t, &ends, f, "c")
		other.Abort()
		if err := other.Done(); err != nil {
			t.Error(err)
		}
		f.wants(t, "a done", "b done", "c aborted")
		var none *topicend.End
		none.Abort()
		if err := none.Done(); err != nil {
			t.Error(err)
		}
	})
}

// TestDoneTellsWhatFails, and does not try again: the producer is there, and can.
func TestDoneTellsWhatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends topicend.Ends
		f := new(fake)
		f.fail("a", broker.ErrStorage)
		e, logs := begin(t, &ends, f, "a", "b")
		if err := e.Done(); !errors.Is(err, broker.ErrStorage) {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		f.wants(t, "b done")
		if logs.Len() != 0 {
			t.Errorf("the log has %v", logs.All())
		}
	})
}

// TestAbortTriesAgain until the store is back, and only what is left.
func TestAbortTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends topicend.Ends
		f := new(fake)
		f.fail("a", broker.ErrUnavailable)
		e, logs := begin(t, &ends, f, "a", "b")
		e.Abort()
		time.Sleep(5 * time.Second)
		f.wants(t, "b aborted")
		f.fail("", nil)
		time.Sleep(10 * time.Second)
		f.wants(t, "b aborted", "a aborted")
		if got := logs.All(); len(got) != 1 || got[0].Level != zap.WarnLevel {
			t.Errorf("the log has %v", got)
		}
		ends.Close(time.Second)
	})
}

// TestAbortGivesUp after a minute, and the log names the topics that stay open.
func TestAbortGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends topicend.Ends
		f := new(fake)
		f.fail("a", broker.ErrUnavailable)
		e, logs := begin(t, &ends, f, "a", "b")
		e.Abort()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		got := logs.FilterLevelExact(zap.ErrorLevel).All()
		if len(got) != 1 || !slices.Equal(got[0].ContextMap()["topics"].([]any), []any{"a"}) {
			t.Errorf("the log has %v", logs.All())
		}
		if f.tries > 15 {
			t.Errorf("%d tries", f.tries)
		}
	})
}

// TestCloseAbortsWhatIsOpen: ingests that are open, and topics that are tried again.
func TestCloseAbortsWhatIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends topicend.Ends
		f := new(fake)
		f.fail("late", broker.ErrUnavailable)
		late, _ := begin(t, &ends, f, "late")
		late.Abort()
		time.Sleep(20 * time.Second)
		f.fail("", nil)
		open, _ := begin(t, &ends, f, "open")
		began := time.Now()
		ends.Close(time.Second)
		if took := time.Since(began); took > 0 {
			t.Errorf("it took %v", took)
		}
		slices.Sort(f.closed)
		f.wants(t, "late aborted", "open aborted")
		open.Abort()
		if _, err := ends.Begin(f, []string{"a"}, broker.Limits{}, nil); !errors.Is(err, broker.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
		ends.Close(time.Second)
	})
}

// TestCloseDoesNotWaitForABrokerThatHangs, nor for one that panics.
func TestCloseDoesNotWaitForABrokerThatHangs(t *testing.T) {
	before := guard.OnPanic(func(guard.Place, any, []byte) {})
	t.Cleanup(func() { guard.OnPanic(before) })
	synctest.Test(t, func(t *testing.T) {
		for topic, want := range map[string]time.Duration{"hangs": 200 * time.Millisecond, "panics": 0} {
			var ends topicend.Ends
			begin(t, &ends, new(fake), topic)
			began := time.Now()
			ends.Close(200 * time.Millisecond)
			if took := time.Since(began); took != want {
				t.Errorf("%s: it took %v", topic, took)
			}
			time.Sleep(time.Minute) // until the call has ended
		}
	})
}
