package megaphone_test

import (
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	megaphone "github.com/caddy-megaphone/megaphone/client/go"
)

// TestARefusalEndsAReadThatHasBegun: a token that has run out, say, would be refused for ever.
func TestARefusalEndsAReadThatHasBegun(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden} {
		var reads atomic.Int32
		c := stub(t, func(w http.ResponseWriter, _ *http.Request) {
			if reads.Add(1) == 1 {
				w.Header().Set("Content-Type", "application/x-ndjson")
				fmt.Fprintln(w, `{"sid":"s","eid":"1","ts":"2026-01-02T03:04:05.000000000Z","body":1}`)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			fmt.Fprint(w, `{"code":"REFUSED","message":"not you"}`)
		})
		events := 0
		var last error
		options := megaphone.ReadOptions{Transport: megaphone.Poll, OnError: func(err error, _ time.Duration) error {
			return fmt.Errorf("tried again: %w", err)
		}}
		for _, err := range c.Read(t.Context(), "c.x", options) {
			if last = err; err == nil {
				events++
			}
		}
		if refused, ok := errors.AsType[*megaphone.Error](last); events != 1 || !ok || refused.Status != status || strings.Contains(last.Error(), "tried again") {
			t.Errorf("%d events, then %v", events, last)
		}
	}
}

// TestDotsAreNoPartOfAPath: a proxy would resolve them, and the request would go elsewhere.
func TestDotsAreNoPartOfAPath(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	c := stub(t, func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"failures":[]}`)
	})
	ctx := t.Context()
	for _, dots := range []string{".", ".."} {
		for call, do := range map[string]func() error{
			"write to a stream":    func() error { return c.Write(ctx, megaphone.Message{Channel: "c.x", StreamID: dots}) },
			"write to a channel":   func() error { return c.Write(ctx, megaphone.Message{Channel: dots, StreamID: "s"}) },
			"state":                func() error { _, err := c.State(ctx, dots); return err },
			"delete":               func() error { return c.Delete(ctx, dots) },
			"publish to a topic":   func() error { _, err := c.Publish(ctx, dots, megaphone.Message{StreamID: "s"}, ""); return err },
			"publish to a stream":  func() error { _, err := c.Publish(ctx, "t", megaphone.Message{StreamID: dots}, ""); return err },
			"join":                 func() error { return c.Join(ctx, "c.x", megaphone.Join{Topic: dots}) },
			"leave":                func() error { return c.Leave(ctx, dots, "t") },
			"keep":                 func() error { return c.KeepTopic(ctx, dots, megaphone.Keep{}) },
			"close":                func() error { return c.CloseTopic(ctx, dots, "done", "") },
			"the state of a topic": func() error { _, err := c.Topic(ctx, dots); return err },
			"read":                 func() error { return readOnce(c.Read(ctx, dots, megaphone.ReadOptions{Transport: megaphone.Poll})) },
			"read over a WebSocket": func() error {
				return readOnce(c.Read(ctx, dots, megaphone.ReadOptions{Transport: megaphone.WebSocket}))
			},
		} {
			if err := do(); err == nil || !strings.Contains(err.Error(), `cannot be "`+dots+`" in a path`) || errors.Is(err, megaphone.ErrUncertain) {
				t.Errorf("%s, %s: %v", call, dots, err)
			}
		}
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
	if _, err := c.WriteBatch(ctx, []string{"c.x"}, []megaphone.Message{{StreamID: ".."}}); err != nil {
		t.Error(err)
	}
}

// readOnce returns the first error of a read, or nil if a message comes first.
func readOnce(read iter.Seq2[megaphone.Event, error]) error {
	for _, err := range read {
		return err
	}
	return nil
}
