package disk

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// opened starts a Broker on a folder of the operating system.
func opened(t *testing.T, path string) *Broker {
	t.Helper()
	b := Open(Options{Path: path, segment: smallSegment})
	t.Cleanup(b.Close)
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// until waits until a condition holds.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for begun := time.Now(); !condition(); time.Sleep(time.Millisecond) {
		if time.Since(begun) > 20*time.Second {
			t.Fatalf("it is not so that %s", what)
		}
	}
}

// TestAFolderThatIsMadeAgainIsLocked: another process must not use it as well.
func TestAFolderThatIsMadeAgainIsLocked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	b := opened(t, path)
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	until(t, "the folder is made again", func() bool {
		names, err := filepath.Glob(filepath.Join(path, "*"+segmentSuffix))
		return err == nil && len(names) > 0 && b.Healthy() == nil
	})
	if _, err := b.Create(t.Context(), "agent", brokerfixture.Limits); err != nil {
		t.Error(err)
	}
	other := Open(Options{Path: path, segment: smallSegment})
	defer other.Close()
	if err := other.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "is in use by this process already") {
		t.Errorf("a second Broker starts: error %v", err)
	}
}

// TestAJournalThatIsPutInPlaceIsNotTouched: somebody restores a copy, and has not stopped the server.
func TestAJournalThatIsPutInPlaceIsNotTouched(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	b := opened(t, filepath.Join(path, "journal"))
	if _, err := b.Create(t.Context(), "agent", brokerfixture.Limits); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Backup(t.Context(), filepath.Join(path, "copy")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(path, "journal"), filepath.Join(path, "before")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(path, "copy"), filepath.Join(path, "journal")); err != nil {
		t.Fatal(err)
	}
	until(t, "the Broker notices", func() bool {
		err := b.Healthy()
		return err != nil && strings.Contains(err.Error(), "another journal was put in the place")
	})
	b.Close()
	again := opened(t, filepath.Join(path, "journal"))
	if stats := again.Stats(); stats.Channels != 1 {
		t.Errorf("there are %d channels", stats.Channels)
	}
}

// TestSyncKeepsWhatIsWrittenMeanwhile: a sync lets go of the file's pages, while others write to them.
func TestSyncKeepsWhatIsWrittenMeanwhile(t *testing.T) {
	t.Parallel()
	folder := &osFolder{path: t.TempDir()}
	const size = 1 << 20
	f, err := folder.create("file", size)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.close() }()
	f.populate()
	var writing sync.WaitGroup
	writing.Go(func() {
		mem := f.bytes()
		for i := range mem {
			mem[i] = byte(i%255 + 1)
			if i%4096 == 4095 {
				if err := f.written(i-4095, i+1); err != nil { // on some systems, it is only then in the file
					t.Error(err)
					return
				}
			}
		}
	})
	for range 20 {
		if err := f.sync(); err != nil {
			t.Error(err)
		}
	}
	writing.Wait()
	if err := f.sync(); err != nil {
		t.Error(err)
	}
	data, closed, err := folder.open("file")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = closed() }()
	for i, b := range data {
		if b != byte(i%255+1) || f.bytes()[i] != b {
			t.Fatalf("byte %d is %d in the file and %d in memory, want %d", i, b, f.bytes()[i], i%255+1)
		}
	}
}
