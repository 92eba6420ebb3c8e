package history_test

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/history"
)

func at(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// written is an attempt to write to channel c from one time to another.
func written(value string, from, to int, o history.Outcome) history.Write {
	return history.Write{Channel: "c", Value: value, Start: at(from), End: at(to), Outcome: o}
}

func keyed(w history.Write) history.Write {
	w.Keyed = true
	return w
}

// delivered has one delivery in channel c for each pair of event id and value.
func delivered(pairs ...string) (ds []history.Delivery) {
	for i := 0; i < len(pairs); i += 2 {
		ds = append(ds, history.Delivery{Channel: "c", EventID: pairs[i], Value: pairs[i+1]})
	}
	return ds
}

func TestCheck(t *testing.T) {
	const accepted, refused, unknown = history.Accepted, history.Refused, history.Unknown
	fault := []history.Fault{{Name: "kill", Start: at(2), End: at(3)}}
	for name, test := range map[string]struct {
		history.History

		want []string // parts of what Check reports
	}{
		"nothing": {},
		"in order": {History: history.History{
			Writes:     []history.Write{written("a", 0, 1, accepted), written("b", 2, 3, accepted)},
			Deliveries: delivered("1", "a", "2", "b"),
		}},
		"repeats of in-flight messages": {History: history.History{
			Writes:     []history.Write{written("a", 0, 1, accepted), written("b", 2, 3, accepted)},
			Deliveries: delivered("1", "a", "2", "b", "1", "a", "2", "b"),
		}},
		"concurrent writes in any order": {History: history.History{
			Writes:     []history.Write{written("a", 0, 5, accepted), written("b", 2, 3, accepted)},
			Deliveries: delivered("2", "b", "1", "a"),
		}},
		"lost": {History: history.History{
			Writes:     []history.Write{written("a", 0, 1, accepted), written("b", 2, 3, accepted)},
			Deliveries: delivered("2", "b"),
		}, want: []string{`1 accepted messages were not delivered, and 0 were counted as undelivered; the first is "a"`}},
		"counted as undelivered": {History: history.History{
			Writes:      []history.Write{written("a", 0, 1, accepted)},
			Undelivered: map[string]int{"c": 1},
		}},
		"more lost than counted": {History: history.History{
			Writes:      []history.Write{written("a", 0, 1, accepted), written("b", 2, 3, accepted)},
			Undelivered: map[string]int{"c": 1},
		}, want: []string{"2 accepted messages were not delivered, and 1 were counted"}},
		"more counted than written": {History: history.History{
			Writes: []history.Write{
				keyed(written("a", 0, 3, unknown)), keyed(written("a", 4, 5, accepted)), written("b", 0, 1, refused),
			},
			Faults:      fault,
			Undelivered: map[string]int{"c": 2},
		}, want: []string{"2 messages were counted as undelivered, but only 1 were written"}},
		"out of order": {History: history.History{
			Writes:     []history.Write{written("a", 0, 1, accepted), written("b", 2, 3, accepted)},
			Deliveries: delivered("2", "b", "1", "a"),
		}, want: []string{`"a" was delivered after "b"`}},
		"out of order behind an older one": {History: history.History{
			Writes: []history.Write{written("a", 0, 9, accepted), written("b", 1, 2, accepted), written("d", 3, 4, accepted)},
			// "a" is concurrent with both, and must not hide that "b" comes after "d".
			Deliveries: delivered("3", "d", "1", "a", "2", "b"),
		}, want: []string{`"b" was delivered after "d"`}},
		"invented": {History: history.History{
			Deliveries: delivered("1", "a"),
		}, want: []string{`"a" was delivered, but never written there`}},
		"in a foreign channel": {History: history.History{
			Writes:     []history.Write{{Channel: "other", Value: "a", Outcome: accepted}},
			Deliveries: delivered("1", "a"),
		}, want: []string{`channel c: "a" was delivered, but never written there`, "channel other: 1 accepted"}},
		"delivered though refused": {History: history.History{
			Writes:     []history.Write{written("a", 0, 1, refused)},
			Deliveries: delivered("1", "a"),
		}, want: []string{"was refused"}},
		"refused": {History: history.History{
			Writes: []history.Write{written("a", 0, 1, refused)},
		}},
		"one event id for two messages": {History: history.History{
			Writes:     []history.Write{written("a", 0, 1, accepted), written("b", 0, 1, accepted)},
			Deliveries: delivered("1", "a", "1", "b"),
		}, want: []string{`event 1 is "a" and "b"`, "1 accepted messages"}},
		"twice with a key": {History: history.History{
			Writes: []history.Write{keyed(written("a", 0, 3, unknown)), keyed(written("a", 4, 5, accepted))}, Faults: fault,
			Deliveries: delivered("1", "a", "2", "a"),
		}, want: []string{`"a" was delivered 2 times`}},
		"once with a key": {History: history.History{
			Writes: []history.Write{keyed(written("a", 0, 3, unknown)), keyed(written("a", 4, 5, accepted))}, Faults: fault,
			Deliveries: delivered("1", "a"),
		}},
		"twice without a key, after an unknown outcome": {History: history.History{
			Writes: []history.Write{written("a", 0, 3, unknown), written("a", 4, 5, accepted)}, Faults: fault,
			Deliveries: delivered("1", "a", "2", "a"),
		}},
		"twice without a key": {History: history.History{
			Writes:     []history.Write{written("a", 0, 1, accepted)},
			Deliveries: delivered("1", "a", "2", "a"),
		}, want: []string{`"a" was delivered 2 times`}},
		"unknown during a fault": {History: history.History{
			Writes: []history.Write{written("a", 0, 2, unknown), written("b", 3, 9, unknown)}, Faults: fault,
		}},
		"unknown without a fault": {History: history.History{
			Writes: []history.Write{written("a", 0, 1, unknown), written("b", 4, 5, unknown)}, Faults: fault,
		}, want: []string{`the outcome of "a" is unknown`, `the outcome of "b" is unknown`}},
		"unknown during a fault of another channel": {History: history.History{
			Writes: []history.Write{written("a", 0, 3, unknown)}, Faults: []history.Fault{{Channel: "d", Start: at(0), End: at(3)}},
		}, want: []string{`the outcome of "a" is unknown`}},
		"unknown during a fault of its channel": {History: history.History{
			Writes: []history.Write{written("a", 0, 3, unknown)}, Faults: []history.Fault{{Channel: "c", Start: at(0), End: at(3)}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := test.Check()
			if len(got) != len(test.want) {
				t.Fatalf("got %q, want %q", got, test.want)
			}
			all := strings.Join(got, "\n")
			for _, want := range test.want {
				if !strings.Contains(all, want) {
					t.Errorf("got %q, want %q", got, want)
				}
			}
		})
	}
}

func TestRecorder(t *testing.T) {
	r := history.NewRecorder()
	start := r.Now()
	r.Fault("kill", time.Hour, func() { r.Write(history.Write{Channel: "c", Value: "a", Start: start}) })
	r.Write(history.Write{Channel: "c", Value: "b", Start: start, Outcome: history.Accepted})
	r.Write(history.Write{Channel: "c", Value: "c", Start: start, Outcome: history.Accepted})
	r.Deliver(history.Delivery{Channel: "c", EventID: "1", Value: "b"})
	if r.Missing() != 1 {
		t.Errorf("%d messages are missing, want 1", r.Missing())
	}
	r.Delete("c", 1)
	r.Write(history.Write{Channel: "d", Value: "d", Start: start, Outcome: history.Refused})
	if r.Missing() != 0 {
		t.Errorf("%d messages are missing though their channel was deleted", r.Missing())
	}
	h := r.History()
	if got := h.Check(); len(got) > 0 {
		t.Errorf("got %q", got)
	}
	if len(h.Writes) != 4 || h.Writes[1].End < start || len(h.Deliveries) != 1 || h.Faults[0].End < time.Hour {
		t.Errorf("got %+v", h)
	}
}
