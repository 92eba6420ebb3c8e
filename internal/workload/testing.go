package workload

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/history"
)

// Seed returns the seed of a random test. The log has it. MEGAPHONE_SEED sets it.
func Seed(tb testing.TB) uint64 {
	tb.Helper()
	n := rand.Uint64() //nolint:gosec // the log has it
	if text := os.Getenv("MEGAPHONE_SEED"); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			tb.Fatal(err)
		}
	}
	tb.Logf("MEGAPHONE_SEED=%d", n)
	return n
}

// Duration returns how long a random test goes on: MEGAPHONE_RANDOM_TIME, else the short time.
func Duration(tb testing.TB, short time.Duration) time.Duration {
	tb.Helper()
	if text := os.Getenv("MEGAPHONE_RANDOM_TIME"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			tb.Fatal(err)
		}
		return d
	}
	return short
}

// Rounds returns how often a test does something: the larger number if MEGAPHONE_RANDOM_TIME is set, else the smaller one.
func Rounds(few, many int) int {
	if os.Getenv("MEGAPHONE_RANDOM_TIME") != "" {
		return many
	}
	return few
}

// Check fails the test if something is wrong with a history, or if fewer messages were accepted in it than that. MEGAPHONE_HISTORY
// names a file for the history, as JSON.
func Check(tb testing.TB, h history.History, accepted int) {
	tb.Helper()
	if file := os.Getenv("MEGAPHONE_HISTORY"); file != "" {
		if text, err := json.Marshal(h); err != nil {
			tb.Error(err)
		} else if err := os.WriteFile(file, text, 0o600); err != nil { //nolint:gosec // who runs the test names it
			tb.Error(err)
		}
	}
	outcomes := map[history.Outcome]int{}
	for _, w := range h.Writes {
		outcomes[w.Outcome]++
	}
	missed, appended, ends := 0, 0, 0
	for _, d := range h.Deliveries {
		missed, appended = missed+d.Missed, appended+len(d.Appended)
		if d.End != "" {
			ends++
		}
	}
	tb.Logf("attempts %v, %d deliveries, %d faults, %d stays, %d missed, %d appended, %d ends",
		outcomes, len(h.Deliveries), len(h.Faults), len(h.Stays), missed, appended, ends)
	wrong := h.Check()
	for i, fault := range wrong {
		if i == 20 {
			tb.Errorf("and %d more", len(wrong)-i)
			break
		}
		tb.Error(fault)
	}
	if outcomes[history.Accepted] < accepted {
		i := slices.IndexFunc(h.Writes, func(w history.Write) bool { return w.Outcome != history.Accepted })
		tb.Errorf("only %d messages were accepted, want %d; the first other attempt is %+v", outcomes[history.Accepted], accepted, h.Writes[max(0, i):max(0, i+1)])
	}
}
