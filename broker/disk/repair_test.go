package disk

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// TestARepairKeepsWhatIsWhole damages a record in the middle, and a whole segment.
func TestARepairKeepsWhatIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		image, h := recorded(t, 60, true)
		name, end := onlySegment(t, image)
		whole := openTest(t, folderOf(image), Process)
		want := allNumbers(t, whole, h)
		whole.Close()

		f := folderOf(image)
		f.files[name].seen[end*3/4] ^= 1
		b := Open(Options{segment: smallSegment, folder: f})
		if err := b.Start(t.Context()); err == nil {
			t.Error("the Broker starts on a journal that is damaged in the middle")
		}
		b.Close()
		report, err := check(t.Context(), f, nil)
		if err != nil || len(report.Damages) != 1 || !report.Damages[0].Middle || report.Damages[0].Records == 0 {
			t.Fatalf("the report is %+v, error %v", report, err)
		}
		again, kept, err := repair(t.Context(), f, smallSegment, nil)
		if err != nil || kept == "" || again.Messages != report.Messages {
			t.Fatalf("repair: %+v, %q, error %v", again, kept, err)
		}
		if f.files[kept+"/"+name] == nil || f.files[name] != nil {
			t.Errorf("the damaged segment is not in %s", kept)
		}
		b = openTest(t, f, Process)
		defer b.Close()
		got := allNumbers(t, b, h)
		lost := slices.DeleteFunc(slices.Clone(want), func(n int) bool { return slices.Contains(got, n) })
		if len(lost) > 5 || len(want)-len(lost) < 10 {
			t.Errorf("of %v, %v is lost", want, lost)
		}
	})
}

// TestACheckTellsHowFarItHasCome, from nothing to all.
func TestACheckTellsHowFarItHasCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		image, _ := recorded(t, 600, true)
		var told []int64
		report, err := check(t.Context(), folderOf(image), func(read, all int64) {
			told = append(told, read)
			if all < read || all == 0 {
				t.Errorf("%d of %d bytes are read", read, all)
			}
		})
		if err != nil || report.Segments < 2 || len(told) != report.Segments+1 || told[0] != 0 || told[report.Segments] != report.Bytes || !slices.IsSorted(told) {
			t.Errorf("told is %v, error %v, the report is %+v", told, err, report)
		}
	})
}

func TestARepairOfASoundJournalChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		image, _ := recorded(t, 60, true)
		f := folderOf(image)
		if report, kept, err := repair(t.Context(), f, smallSegment, nil); err != nil || kept != "" || report.Messages == 0 {
			t.Errorf("the report is %+v, kept %q, error %v", report, kept, err)
		}
		for name, data := range f.content() {
			if !slices.Equal(data, image[name]) {
				t.Errorf("%s has changed", name)
			}
		}
	})
}

// TestAMissingSegmentRefusesTheStart: a repair goes on without it.
func TestAMissingSegmentRefusesTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &testFolder{}
		for range 3 { // each start begins a segment
			b := openTest(t, f, Process)
			if _, err := b.Create(t.Context(), "agent", newLoad(nil, 1, nil, nil).limits); err != nil {
				t.Fatal(err)
			}
			b.log.halt() // or else it would compact
			b.Broker.Close()
			b.log.end()
		}
		names, err := f.list()
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		if len(names) < 3 {
			t.Skip("the segments were compacted already")
		}
		delete(f.files, names[1])
		b := Open(Options{segment: smallSegment, folder: f})
		if err := b.Start(t.Context()); err == nil {
			t.Error("the Broker starts without a segment")
		}
		b.Close()
		if report, kept, err := repair(t.Context(), f, smallSegment, nil); err != nil || kept == "" || !slices.Equal(report.MissingFiles, names[1:2]) {
			t.Errorf("the report is %+v, error %v", report, err)
		}
		openTest(t, f, Process).Close()
	})
}

// TestARepairKeepsTopics but one whose record is damaged: its members have left.
func TestARepairKeepsTopics(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newTopical(t, Process)
		a := s.member(broker.Join{Topic: "whole"}, broker.Join{Topic: "damaged"})
		s.publish("whole", "one", 0, broker.Published{Members: 1, Full: 1})
		s.publish("whole", "two", 10, broker.Published{Members: 1, Accepted: 1})
		time.Sleep(untilSynced)
		image := s.folder.content()
		at := bytes.Index(image[segmentName(1)], []byte("damaged"))
		image[segmentName(1)][at] ^= 1
		f := folderOf(image)
		report, err := check(t.Context(), f, nil)
		if err != nil || !report.Refused() || report.Topics != 1 || report.Memberships != 1 || report.MissingMemberships != 1 {
			t.Fatalf("the report is %+v, error %v", report, err)
		}
		if _, kept, err := repair(t.Context(), f, smallSegment, nil); err != nil || kept == "" {
			t.Fatalf("repair: %q, error %v", kept, err)
		}
		b := openTest(t, f, Process)
		defer b.Close()
		s.wants(b, a, "1 missed, two")
		if i, err := b.Topic(t.Context(), "whole"); err != nil || i.Members != 1 {
			t.Errorf("the topic is %+v, error %v", i, err)
		}
		if report, err := check(t.Context(), folderOf(f.content()), nil); err != nil || report.Memberships != 1 || report.MissingMemberships != 0 {
			t.Errorf("the report is %+v, error %v", report, err)
		}
	})
}

// TestACheckChangesNothing also of a copy in a folder that nobody may write, and it makes no folder: its name may be mistaken.
func TestACheckChangesNothing(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	b := Open(Options{Path: filepath.Join(path, "journal"), segment: smallSegment})
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Create(t.Context(), "agent", brokerfixture.Limits); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(path, "copy")
	if _, err := b.Backup(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	if report, err := Check(t.Context(), copied, nil); err != nil || report.Channels != 1 {
		t.Errorf("the report is %+v, error %v", report, err)
	}
	if names, err := (&osFolder{path: copied}).list(); err != nil || !slices.Equal(names, []string{segmentName(1)}) {
		t.Errorf("the copy has %v, error %v", names, err)
	}
	if _, err := Check(t.Context(), filepath.Join(path, "journal"), nil); err == nil || !strings.Contains(err.Error(), "is in use by this process") {
		t.Errorf("the check of a journal in use: error %v", err)
	}
	for name, makes := range map[string]bool{"typo": false, "empty": true} {
		other := filepath.Join(path, name)
		if makes {
			if err := os.Mkdir(other, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Check(t.Context(), other, nil); err == nil {
			t.Errorf("the check of a folder without a journal reports one")
		}
		if _, _, err := Repair(t.Context(), other, nil); err == nil {
			t.Errorf("the repair of a folder without a journal reports one")
		}
		if names, err := os.ReadDir(other); makes != (err == nil) || len(names) > 0 {
			t.Errorf("there is %v now, error %v", names, err)
		}
	}
}
