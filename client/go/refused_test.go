package megaphone_test

import (
	"errors"
	"fmt"
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
