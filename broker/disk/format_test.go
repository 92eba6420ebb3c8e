package disk

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

var update = flag.Bool("update", false, "write the journal of this version of the format to testdata")

// TestJournalsOfEarlierVersionsAreRead: testdata has a journal of each version of the format, with one channel: its first
// message was settled, the second one has a key and was taken, the third is pending.
func TestJournalsOfEarlierVersionsAreRead(t *testing.T) {
	if *update {
		writeFormat(t)
	}
	names, err := filepath.Glob(filepath.Join("testdata", "version-*.journal"))
	if err != nil || len(names) != formatVersion {
		t.Fatalf("there are %v, error %v", names, err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			b := openTest(t, folderOf(map[string][]byte{segmentName(1): data}), Process)
			defer b.Close()
			page, err := b.List(t.Context(), broker.ListOptions{Limit: 10})
			if err != nil || len(page.Channels) != 1 {
				t.Fatalf("%s: %+v, error %v", name, page, err)
			}
			c := page.Channels[0]
			ms, err := b.Peek(t.Context(), c.Consumer, 10)
			if err != nil || len(ms) != 2 || string(ms[0].Body()) != `"second"` || string(ms[1].Body()) != `"third"` ||
				!ms[0].Keyed() || c.InFlight != 1 || c.Pending != 1 || c.LastRead.IsZero() {
				t.Errorf("%s: %+v, %d messages, error %v", name, c, len(ms), err)
			}
		})
	}
}

// writeFormat writes a journal as this version does.
func writeFormat(t *testing.T) {
	t.Helper()
	path := t.TempDir()
	b := Open(Options{Path: path, segment: smallSegment})
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := brokerfixture.Limits
	a, err := b.Create(t.Context(), "agent", l)
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{`"first"`, `"second"`, `"third"`} {
		key := ""
		if body == `"second"` {
			key = "key"
		}
		m, err := broker.NewMessage("stream", []byte(body), key)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Publish(t.Context(), a.Producer, m, l); err != nil {
			t.Fatal(err)
		}
	}
	s, err := b.Subscribe(t.Context(), a.Consumer, broker.SubscribeOptions{Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ms, _ := s.Take(nil, 1)
		if string(ms[0].Body()) == `"first"` {
			s.Settle(ms[0].ID())
		}
	}
	s.End(broker.EndFault)
	b.Close()
	data, err := os.ReadFile(filepath.Join(path, segmentName(1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", "version-1.journal"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestAJournalWithTopicsIsRead that an earlier version has written. One channel has taken a message of two topics, knows that it
// has missed two more, and has the end of one, outside the buffer. It has left the other one. The first topic keeps a message.
func TestAJournalWithTopicsIsRead(t *testing.T) {
	const name = "testdata/topics.journal"
	if *update {
		writeTopics(t, name)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	inBubble(t, func(t *testing.T) {
		b := openTest(t, folderOf(map[string][]byte{segmentName(1): data}), Process)
		defer b.Close()
		page, err := b.List(t.Context(), broker.ListOptions{Limit: 10})
		if err != nil || len(page.Channels) != 1 || page.Channels[0].InFlight != 1 || page.Channels[0].Pending != 1 {
			t.Fatalf("%+v, error %v", page, err)
		}
		if got, want := lines(t, b, page.Channels[0].Addresses), []string{"one", "2 missed, nulldone"}; !slices.Equal(got, want) {
			t.Errorf("the channel has %q, want %q", got, want)
		}
		i, err := b.Topic(t.Context(), "kept")
		if err != nil || i.Members != 1 || i.Kept != 1 || i.Closed != broker.EndDone || i.Keep.TTL != 100_000*time.Hour {
			t.Errorf("%+v, error %v", i, err)
		}
		if i, err := b.Topic(t.Context(), "left"); err != nil || i != (broker.TopicInfo{Name: "left"}) {
			t.Errorf("%+v, error %v", i, err)
		}
	})
}

// writeTopics writes such a journal as this version does.
func writeTopics(t *testing.T, name string) {
	t.Helper()
	path := t.TempDir()
	s := &topical{T: t, broker: Open(Options{Path: path, segment: smallSegment}), limits: brokerfixture.Limits}
	s.no(s.broker.Start(t.Context()))
	s.no(s.broker.KeepTopic(t.Context(), "kept", broker.Keep{Bytes: 400, TTL: 100_000 * time.Hour}, s.limits))
	a := s.member(broker.Join{Topic: "kept"}, broker.Join{Topic: "left"})
	s.publish("kept", "one", 10, broker.Published{Members: 1, Accepted: 1})
	lines(t, s.broker, a)
	s.publish("kept", "missed", 0, broker.Published{Members: 1, Full: 1})
	s.publish("left", "missed", 0, broker.Published{Members: 1, Full: 1})
	s.no(s.broker.Leave(t.Context(), a.Producer, "left"))
	s.no(s.close("kept"))
	s.broker.Close()
	data, err := os.ReadFile(filepath.Join(path, segmentName(1)))
	s.no(err)
	s.no(os.WriteFile(name, data, 0o600))
}

// TestALaterFormatIsRefused, and not changed.
func TestALaterFormatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := make([]byte, smallSegment)
		s := &segment{mem: data, file: &testFile{folder: &testFolder{}, data: data}}
		if err := s.begin(&header{version: formatVersion + 1, sequence: 1}); err != nil {
			t.Fatal(err)
		}
		f := folderOf(map[string][]byte{segmentName(1): data})
		b := Open(Options{segment: smallSegment, folder: f})
		defer b.Close()
		if err := b.Start(t.Context()); err == nil {
			t.Error("the Broker starts")
		}
		if _, _, err := repair(t.Context(), f, smallSegment, nil); err == nil {
			t.Error("the journal is repaired")
		}
		if content := f.content(); len(content) != 1 || !slices.Equal(content[segmentName(1)], data) {
			t.Error("the journal has changed")
		}
	})
}
