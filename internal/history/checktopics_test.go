package history_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/history"
)

// published is an attempt to publish to topic t, by the producer whose letter the value begins with. Its digit is the number.
func published(value string, from, to int, o history.Outcome) history.Write {
	return history.Write{
		Topic: "t", Producer: value[:1], Number: int(value[1] - '0'), Value: value, Start: at(from), End: at(to), Outcome: o,
	}
}

func replied(w history.Write, members, accepted, full int) history.Write {
	w.Published = &history.Published{Members: members, Accepted: accepted, Full: full}
	return w
}

func merging(w history.Write, how history.Merge) history.Write {
	w.Merge = how
	return w
}

// stay is a membership of topic t, which begins at one time and ends at another. 0 means that it does not end.
func stay(channel string, from, to int, last bool) history.Stay {
	s := history.Stay{Channel: channel, Topic: "t", Last: last, Join: span(from), Leave: span(to)}
	if to == 0 {
		s.Leave = history.Span{Start: never, End: never}
	}
	return s
}

const never = time.Duration(1<<63 - 1)

func span(n int) history.Span { return history.Span{Start: at(n), End: at(n)} }

// got is a delivery in a channel, with what was appended to it, and how many messages were missed before it.
func got(channel, event string, missed int, values ...string) history.Delivery {
	return history.Delivery{Channel: channel, EventID: event, Missed: missed, Value: values[0], Appended: values[1:]}
}

// ended is the end of topic t in a channel.
func ended(channel, as string) history.Delivery {
	return history.Delivery{Channel: channel, EventID: "end", Value: "t", End: as}
}

func closed(at int, as string) []history.Close {
	return []history.Close{{Topic: "t", As: as, Span: span(at)}}
}

// last is what is written to channel c at the end, and its delivery.
var (
	last    = history.Write{Channel: "c", Value: "last", Start: at(90), End: at(91), Outcome: history.Accepted}
	gotLast = got("c", "last", 0, "last")
)

func TestCheckTopics(t *testing.T) {
	const accepted, refused, unknown = history.Accepted, history.Refused, history.Unknown
	type (
		writes     = []history.Write
		deliveries = []history.Delivery
		stays      = []history.Stay
	)
	member := stays{stay("c", 0, 0, false)}
	for name, test := range map[string]struct {
		writes     writes
		stays      stays
		deliveries deliveries
		closes     []history.Close
		faults     []history.Fault
		deleted    int    // messages that channel c counted as undelivered when it was deleted; 0 if it was not
		unaware    bool   // channel c does not know topics
		want       string // part of the one fault; empty for none
	}{
		"delivered and missed": {
			writes: writes{replied(published("a1", 1, 2, accepted), 1, 0, 1), replied(published("a2", 3, 4, accepted), 1, 1, 0), last},
			stays:  member, deliveries: deliveries{got("c", "2", 1, "a2"), gotLast},
		},
		"neither delivered nor missed": {
			writes: writes{published("a1", 1, 2, accepted), published("a2", 3, 4, accepted), last},
			stays:  member, deliveries: deliveries{got("c", "2", 0, "a2"), gotLast}, want: `has missed 0 messages, but has missed at least 1; the first is "a1"`,
		},
		"missed too often": {
			writes: writes{published("a1", 1, 2, accepted), published("a2", 3, 4, accepted)},
			stays:  member, deliveries: deliveries{got("c", "2", 2, "a2")}, want: "has missed 2 messages, but can have missed only 1",
		},
		"another count the second time": {
			writes: writes{published("a1", 1, 2, accepted), published("a2", 3, 4, accepted)},
			stays:  member, deliveries: deliveries{got("c", "2", 1, "a2"), got("c", "2", 0, "a2")}, want: `event 2 is "a2, 1 missed" and "a2"`,
		},
		"told to who does not know topics": {
			writes: writes{published("a1", 1, 2, accepted), published("a2", 3, 4, accepted)}, unaware: true,
			stays: member, deliveries: deliveries{got("c", "2", 1, "a2")}, want: "it does not know topics",
		},
		"published while it joins, or leaves": {
			writes: writes{published("a1", 1, 3, accepted), published("a2", 4, 7, accepted), last},
			stays:  stays{stay("c", 2, 5, false)}, deliveries: deliveries{gotLast},
		},
		"delivered before it has joined": {
			writes: writes{published("a1", 1, 2, accepted)}, stays: stays{stay("c", 3, 0, false)}, deliveries: deliveries{got("c", "1", 0, "a1")},
			want: "the channel was no member",
		},
		"delivered after it has left": {
			writes: writes{published("a1", 5, 6, accepted)}, stays: stays{stay("c", 1, 3, false)}, deliveries: deliveries{got("c", "1", 0, "a1")},
			want: "the channel was no member",
		},
		"kept": {
			writes: writes{published("a1", 1, 2, accepted)}, stays: stays{stay("c", 3, 0, true)}, deliveries: deliveries{got("c", "1", 0, "a1")},
		},
		"not kept": {
			writes: writes{published("a1", 1, 2, accepted)}, stays: stays{stay("c", 3, 0, true)}, want: `but never got "a1"`,
		},
		"kept once more": {
			writes:     writes{published("a1", 1, 2, accepted), published("a2", 3, 4, accepted)},
			stays:      stays{stay("c", 0, 5, false), stay("c", 6, 0, true)},
			deliveries: deliveries{got("c", "1", 0, "a1"), got("c", "2", 0, "a2"), got("c", "3", 0, "a1"), got("c", "2", 0, "a2")},
		},
		"twice": {
			writes: writes{published("a1", 1, 2, accepted)}, stays: member, deliveries: deliveries{got("c", "1", 0, "a1"), got("c", "2", 0, "a1")},
			want: `"a1" was delivered 2 times`,
		},
		"out of order": {
			writes: writes{published("a1", 1, 2, accepted), published("b1", 3, 4, accepted)}, stays: member,
			deliveries: deliveries{got("c", "2", 0, "b1"), got("c", "1", 0, "a1")}, want: `"a1" was delivered after "b1"`,
		},
		"out of the order of its producer": {
			writes: writes{published("a1", 1, 5, accepted), published("a2", 2, 5, accepted)}, stays: member,
			deliveries: deliveries{got("c", "2", 0, "a2"), got("c", "1", 0, "a1")}, want: `"a1" was delivered after "a2" of the same producer`,
		},
		"in different orders": {
			writes: writes{published("a1", 1, 5, accepted), published("b1", 2, 5, accepted)}, stays: stays{stay("c", 0, 0, false), stay("d", 0, 0, false)},
			deliveries: deliveries{got("c", "1", 0, "a1"), got("c", "2", 0, "b1"), got("d", "2", 0, "b1"), got("d", "1", 0, "a1")}, want: "in different orders",
		},
		"a reply that counts too many": {
			writes: writes{replied(published("a1", 1, 2, accepted), 2, 2, 0)}, stays: member, deliveries: deliveries{got("c", "1", 0, "a1")},
			want: "but there were 1 to 1 members",
		},
		"a reply that counts a member that has nothing": {
			writes: writes{replied(published("a1", 1, 2, accepted), 1, 1, 0)}, stays: member, want: "but 0 to 0 members have it",
		},
		"a reply about a channel that is deleted": {
			writes: writes{replied(published("a1", 1, 2, accepted), 1, 1, 0)}, stays: stays{stay("c", 0, 5, false)}, deleted: 1,
		},
		"more undelivered than published": {
			writes: writes{published("a1", 1, 2, accepted)}, stays: stays{stay("c", 0, 5, false)}, deleted: 2, want: "but only 1 were written",
		},
		"refused": {
			writes: writes{published("a1", 1, 2, refused)}, stays: member, deliveries: deliveries{got("c", "1", 0, "a1")}, want: "was refused",
		},
		"unknown, and later than its end": {
			writes: writes{published("a1", 1, 2, unknown), published("a2", 3, 4, accepted), last}, stays: stays{stay("c", 3, 0, false)},
			faults:     []history.Fault{{Channel: "t", Start: at(1), End: at(2)}},
			deliveries: deliveries{got("c", "2", 0, "a2"), got("c", "1", 0, "a1"), gotLast},
		},
		"appended": {
			writes: writes{merging(published("a1", 1, 2, accepted), history.MergeAppend), merging(published("a2", 3, 4, accepted), history.MergeAppend)},
			stays:  member, deliveries: deliveries{got("c", "2", 0, "a1", "a2")},
		},
		"appended over a gap": {
			writes: writes{
				merging(published("a1", 1, 2, accepted), history.MergeAppend), merging(published("a2", 3, 4, accepted), history.MergeAppend),
				merging(published("a3", 5, 6, accepted), history.MergeAppend),
			},
			stays: member, deliveries: deliveries{got("c", "3", 1, "a1", "a3")}, want: `"a3" was appended to "a1", without "a2"`,
		},
		"appended late, since its outcome was unknown": {
			writes: writes{
				merging(published("a1", 1, 2, unknown), history.MergeAppend), merging(published("a2", 3, 4, accepted), history.MergeAppend),
				merging(published("a3", 5, 6, accepted), history.MergeAppend),
			},
			faults: []history.Fault{{Channel: "t", Start: at(1), End: at(2)}},
			stays:  member, deliveries: deliveries{got("c", "3", 0, "a2", "a1", "a3")},
		},
		"appended over a time away": {
			writes: writes{
				merging(published("a1", 1, 2, accepted), history.MergeAppend), merging(published("a2", 5, 6, accepted), history.MergeAppend),
				merging(published("a3", 9, 10, accepted), history.MergeAppend),
			},
			stays: stays{stay("c", 0, 3, false), stay("c", 8, 0, false)}, deliveries: deliveries{got("c", "3", 0, "a1", "a3")},
			want: `"a3" was appended to "a1", without "a2"`,
		},
		"appended to another's": {
			writes: writes{merging(published("a1", 1, 2, accepted), history.MergeAppend), merging(published("b1", 3, 4, accepted), history.MergeAppend)},
			stays:  member, deliveries: deliveries{got("c", "2", 0, "a1", "b1")}, want: `"b1" was appended to "a1"`,
		},
		"replaced": {
			writes: writes{merging(published("a1", 1, 2, accepted), history.MergeReplace), merging(published("a2", 3, 4, accepted), history.MergeReplace), last},
			stays:  member, deliveries: deliveries{got("c", "2", 0, "a2"), gotLast},
		},
		"the latest is lost": {
			writes: writes{merging(published("a1", 1, 2, accepted), history.MergeReplace), merging(published("a2", 3, 4, accepted), history.MergeReplace), last},
			stays:  member, deliveries: deliveries{got("c", "1", 0, "a1"), gotLast}, want: `the first is "a2"`,
		},
		"ended": {
			writes: writes{published("a1", 1, 2, accepted), published("a2", 5, 6, refused)}, stays: member, closes: closed(3, "done"),
			deliveries: deliveries{got("c", "1", 0, "a1"), ended("c", "done")},
		},
		"not ended":            {stays: member, closes: closed(3, "done"), want: "it did not get the end"},
		"ended for a late one": {stays: stays{stay("c", 5, 0, true)}, closes: closed(3, "done"), want: "it did not get the end"},
		"ended in another way": {stays: member, closes: closed(3, "done"), deliveries: deliveries{ended("c", "aborted")}, want: "did not end so"},
		"ended for a stranger": {stays: stays{stay("c", 5, 0, false)}, closes: closed(3, "done"), deliveries: deliveries{ended("c", "done")}, want: "did not end so"},
		"more after the end":   {writes: writes{published("a1", 1, 4, accepted)}, stays: member, closes: closed(3, "done"), deliveries: deliveries{ended("c", "done"), got("c", "1", 0, "a1")}, want: `it got "a1" after the end`},
		"accepted after the end": {
			writes: writes{published("a1", 5, 6, accepted)}, stays: stays{stay("d", 0, 4, false)}, closes: closed(3, "done"),
			deliveries: deliveries{ended("d", "done")}, want: `"a1" was accepted after the end`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := history.History{
				Writes: test.writes, Stays: test.stays, Deliveries: test.deliveries, Closes: test.closes, Faults: test.faults,
				KnowsTopics: map[string]bool{"c": !test.unaware, "d": true},
			}
			if test.unaware {
				delete(h.KnowsTopics, "c")
			}
			if test.deleted > 0 {
				h.Undelivered = map[string]int{"c": test.deleted}
			}
			faults := h.Check()
			switch {
			case test.want == "" && len(faults) > 0:
				t.Errorf("got %q, want no fault", faults)
			case test.want != "" && (len(faults) == 0 || !strings.Contains(strings.Join(faults, "\n"), test.want)):
				t.Errorf("got %q, want %q", faults, test.want)
			case len(faults) > 2:
				t.Errorf("one cause has too many faults: %q", faults)
			}
		})
	}
}

func TestRecorderOfTopics(t *testing.T) {
	r := history.NewRecorder()
	failed := errors.New("no answer")
	r.KnowsTopics("c")
	_ = r.Join("c", []string{"t", "u"}, true, func() error { return nil })
	_ = r.Leave("c", "u", func() error { return nil })
	_ = r.Leave("c", "", func() error { return failed })
	_ = r.Join("d", []string{"t"}, false, func() error { return failed })
	_ = r.Close("t", func() (string, error) { return "done", nil })
	r.Write(history.Write{Topic: "t", Value: "a", Outcome: history.Accepted})
	if r.Missing() > 0 {
		t.Error("a message of a topic is missing")
	}
	h := r.History()
	if len(h.Stays) != 3 || len(h.Closes) != 1 || h.Closes[0].As != "done" || h.Closes[0].End == never || !h.KnowsTopics["c"] {
		t.Fatalf("got %+v", h)
	}
	for i, want := range []bool{true, false} { // t may not have ended
		if s := h.Stays[i]; s.Leave.Start == never || (s.Leave.End == never) != want {
			t.Errorf("membership %d is %+v", i, s)
		}
	}
	if s := h.Stays[2]; s.Join.End != never || s.Leave.Start != never {
		t.Errorf("a join without an answer is %+v", s)
	}
}
