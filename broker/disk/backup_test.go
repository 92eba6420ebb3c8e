package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
)

// TestABackupHasAllThatWasWritten takes backups of a Broker that is used and that compacts its journal, and opens each:
// everything that was written before the backup began is there.
func TestABackupHasAllThatWasWritten(t *testing.T) {
	t.Parallel()
	for name, durability := range map[string]Durability{"process": Process, "disk": Disk} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backups(t, openTest(t, &testFolder{}, durability))
		})
	}
}

func backups(t *testing.T, b *Broker) {
	t.Helper()
	defer b.Close()
	var mu sync.Mutex
	var h facts
	now := func() facts {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(h)
	}
	stepped := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	var using sync.WaitGroup
	defer using.Wait()
	defer cancel()
	using.Go(func() {
		next := 0
		l := newLoad(b, testSeed(t), &next, func(a act, done bool, consumer string, n int) {
			mu.Lock()
			defer mu.Unlock()
			h = append(h, fact{len(h), a, done, consumer, n})
		})
		for ctx.Err() == nil {
			l.step(ctx)
			select {
			case stepped <- struct{}{}:
			case <-ctx.Done():
			case <-time.After(100 * time.Microsecond): // a backup is made
			}
		}
	})
	seen, removed := 0, false
	for i := range 10 {
		for range 200 {
			<-stepped
		}
		path := filepath.Join(t.TempDir(), "backup")
		before := len(now())
		if _, err := b.Backup(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		after := now()
		names, err := filepath.Glob(filepath.Join(path, "*"))
		if err != nil || len(names) == 0 {
			t.Fatalf("the backup has %v, error %v", names, err)
		}
		removed = removed || filepath.Base(names[0]) != segmentName(1)
		again := Open(Options{Path: path, segment: smallSegment})
		if err := again.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		seen += after.check(t, again, before, true)
		again.Close()
		if t.Failed() {
			t.Fatalf("in backup %d", i+1)
		}
	}
	if seen < 10 || !removed {
		t.Errorf("%d messages in all backups, compaction %v", seen, removed)
	}
}

// TestABackupIsWholeOrNotThere: one that fails leaves nothing, and none replaces another.
func TestABackupIsWholeOrNotThere(t *testing.T) {
	t.Parallel()
	f := newFaulty(t, Process)
	f.write(nil)
	path := filepath.Join(t.TempDir(), "backup")
	for _, operation := range []string{"open", "sync"} {
		f.write(nil)
		f.folder.failWith(func(o, _ string) error {
			if o == operation {
				return errors.New("broken")
			}
			return nil
		})
		if _, err := f.broker.Backup(t.Context(), path); err == nil {
			t.Errorf("%s fails, and the backup does not", operation)
		}
		f.folder.failWith(nil)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) > 0 {
		t.Errorf("there are %v, error %v", entries, err)
	}
	f = newFaulty(t, Process)
	if err := os.Mkdir(path+".partial", 0o700); err != nil { // of a process that was killed
		t.Fatal(err)
	}
	if size, err := f.broker.Backup(t.Context(), path); err != nil || size < segmentHeader {
		t.Errorf("%d bytes, error %v", size, err)
	}
	if _, err := f.broker.Backup(t.Context(), path); !errors.Is(err, broker.ErrBackupExists) {
		t.Errorf("error %v", fmt.Sprint(err))
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.broker.Backup(cancelled, path+"-2"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestTwoBackupsToOneFolder that begin while the other one is made: one of them is whole, and the other one fails.
func TestTwoBackupsToOneFolder(t *testing.T) {
	t.Parallel()
	f := newFaulty(t, Process)
	for range 200 { // more than a segment
		f.write(nil)
	}
	path := filepath.Join(t.TempDir(), "backup")
	second := make(chan error, 1)
	opens := 0
	f.folder.failWith(func(o, _ string) error {
		if o != "open" {
			return nil
		}
		if opens++; opens != 2 { // the first one has copied a segment
			return nil
		}
		go func() {
			_, err := f.broker.Backup(t.Context(), path)
			second <- err
		}()
		for range 50 { // until the second one has begun, unless it waits
			if names, _ := os.ReadDir(path + ".partial"); len(names) == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	if _, err := f.broker.Backup(t.Context(), path); err != nil {
		t.Error(err)
	}
	if err := <-second; !errors.Is(err, broker.ErrBackupExists) {
		t.Errorf("error %v", err)
	}
	again := Open(Options{Path: path, segment: smallSegment})
	defer again.Close()
	if err := again.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.has(again)
}
