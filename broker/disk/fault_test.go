package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-megaphone/megaphone/broker"
	"github.com/caddy-megaphone/megaphone/internal/brokerfixture"
)

// untilSynced is how long it takes until all is durable. It ends between two syncs: what a test does next must not meet one.
const untilSynced = 2*syncInterval + syncInterval/2

// A faulty is a Broker whose folder can fail, with one channel and a reader.
type faulty struct {
	*testing.T

	folder *testFolder
	broker *Broker
	a      broker.Addresses
	lines  []string // of the messages that were written
}

func newFaulty(t *testing.T, d Durability) *faulty {
	t.Helper()
	f := &faulty{T: t, folder: &testFolder{}}
	f.broker = openTest(t, f.folder, d)
	t.Cleanup(f.broker.Close)
	var err error
	if f.a, err = f.broker.Create(t.Context(), "agent", brokerfixture.Limits); err != nil {
		t.Fatal(err)
	}
	return f
}

// write writes a message. If want is nil, it must succeed.
func (f *faulty) write(want error) {
	f.Helper()
	m, err := broker.NewMessage("stream", fmt.Appendf(nil, "%q", strings.Repeat("x", 500)), "")
	if err != nil {
		f.Fatal(err)
	}
	l := brokerfixture.Limits
	l.Buffer = 1 << 20
	if err := f.broker.Publish(f.Context(), f.a.Producer, m, l); !errors.Is(err, want) {
		f.Fatalf("the write fails with %v, want %v", err, want)
	} else if err == nil || errors.Is(err, broker.ErrOutcomeUnknown) {
		f.lines = append(f.lines, string(m.Line()))
	}
}

// has checks that the channel has all messages, here and after a restart.
func (f *faulty) has(b *Broker) {
	f.Helper()
	ms, err := b.Peek(f.Context(), f.a.Consumer, 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	if len(ms) != len(f.lines) {
		f.Fatalf("the channel has %d messages, want %d", len(ms), len(f.lines))
	}
	for i, m := range ms {
		if string(m.Line()) != f.lines[i] {
			f.Fatalf("message %d is %q, want %q", i, m.Line(), f.lines[i])
		}
	}
}

// recovers waits until the Broker takes writes again, and checks that nothing is lost, even by a restart.
func (f *faulty) recovers() {
	f.Helper()
	if f.broker.Healthy() == nil {
		f.Fatal("the Broker says that it is well")
	}
	f.folder.failWith(nil)
	time.Sleep(maxPause + 2*retryInterval)
	if err := f.broker.Healthy(); err != nil {
		f.Fatalf("the Broker does not recover: %v", err)
	}
	f.write(nil)
	f.has(f.broker)
	image := f.folder.content()
	f.broker.Close()
	again := openTest(f, folderOf(image), Process)
	f.has(again)
	again.Close()
}

func inBubble(t *testing.T, test func(*testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

func TestAFullDiskRefusesWritesAndNothingElse(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Process)
		time.Sleep(retryInterval)
		full := true
		f.folder.failWith(func(operation, _ string) error {
			if operation == "create" && full {
				return syscall.ENOSPC
			}
			return nil
		})
		for range 1000 {
			m := brokerfixture.Message(t)
			l := brokerfixture.Limits
			l.Buffer = 1 << 20
			if err := f.broker.Publish(t.Context(), f.a.Producer, m, l); err != nil {
				if !errors.Is(err, broker.ErrStorage) {
					t.Fatalf("the write fails with %v", err)
				}
				break
			}
			f.lines = append(f.lines, string(m.Line()))
		}
		f.write(broker.ErrStorage)
		if _, err := f.broker.Create(t.Context(), "agent", brokerfixture.Limits); !errors.Is(err, broker.ErrStorage) {
			t.Errorf("create fails with %v", err)
		}
		if n := len(f.lines); n < 100 {
			t.Errorf("%d messages are written before the disk is full", n)
		}
		time.Sleep(retryInterval)

		// What is held is delivered and settled, and that is kept.
		s, err := f.broker.Subscribe(t.Context(), f.a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits, Acknowledged: true})
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			ms, _ := s.Take(nil, 1)
			if len(ms) != 1 || !s.Settle(ms[0].ID()) {
				t.Fatal("the reader gets nothing")
			}
			f.lines = f.lines[1:]
		}
		s.End(broker.EndFault)
		f.recovers()
	})
}

func TestMaxDiskRefusesWrites(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Process)
		f.broker.Configure(Settings{MaxDisk: 3 * smallSegment})
		l := brokerfixture.Limits
		l.Buffer = 1 << 20
		err := error(nil)
		for n := 0; err == nil && n < 10_000; n++ {
			m := brokerfixture.Message(t)
			if err = f.broker.Publish(t.Context(), f.a.Producer, m, l); err == nil {
				f.lines = append(f.lines, string(m.Line()))
			}
			time.Sleep(time.Millisecond)
		}
		if !errors.Is(err, broker.ErrStorage) {
			t.Fatalf("the write fails with %v", err)
		}
		var size int
		for _, data := range f.folder.content() {
			size += len(data)
		}
		if size > 3*smallSegment {
			t.Errorf("the journal takes %d bytes", size)
		}
		time.Sleep(retryInterval)
		if err := f.broker.Healthy(); err == nil || !strings.Contains(err.Error(), "max_disk") {
			t.Errorf("the health is %v", err)
		}
		f.broker.Configure(Settings{})
		f.recovers()
	})
}

// TestAFailedSyncIsNeverTriedAgain: after it, the same data goes to another segment.
func TestAFailedSyncIsNeverTriedAgain(t *testing.T) {
	for name, d := range map[string]Durability{"process": Process, "disk": Disk} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				f := newFaulty(t, d)
				f.write(nil)
				time.Sleep(untilSynced)
				var mu sync.Mutex
				failed, synced := map[string]bool{}, 0
				failing := true
				f.folder.failWith(func(operation, name string) error {
					mu.Lock()
					defer mu.Unlock()
					if operation == "create" && failing {
						return syscall.EIO // so the Broker cannot begin anew at once
					}
					if operation != "sync" {
						return nil
					}
					if failed[name] {
						t.Errorf("%s is synced again", name)
					}
					failed[name] = failing
					synced++
					if failing {
						return syscall.EIO
					}
					return nil
				})
				if d == Disk {
					f.write(broker.ErrOutcomeUnknown)
					if s := stateOf(f); s.Pending != 2 {
						t.Errorf("%d messages are pending", s.Pending)
					}
					f.seesOnly(1)
				} else {
					f.write(nil)
					time.Sleep(untilSynced)
				}
				f.write(broker.ErrStorage)
				time.Sleep(3 * syncInterval)
				f.write(broker.ErrStorage)
				mu.Lock()
				failing = false
				mu.Unlock()
				time.Sleep(2 * retryInterval)
				mu.Lock()
				if synced < 2 {
					t.Errorf("%d syncs", synced)
				}
				mu.Unlock()
				f.broker.log.mu.Lock()
				f.broker.log.breakDown(errors.New("once more, for recovers"))
				f.broker.log.mu.Unlock()
				f.recovers()
			})
		})
	}
}

func stateOf(f *faulty) broker.State {
	s, err := f.broker.State(f.Context(), f.a.Consumer)
	if err != nil {
		f.Fatal(err)
	}
	return s
}

// seesOnly checks that a reader is not sent messages that are not durable.
func (f *faulty) seesOnly(n int) {
	f.Helper()
	s, err := f.broker.Subscribe(f.Context(), f.a.Consumer, broker.SubscribeOptions{Limits: brokerfixture.Limits})
	if err != nil {
		f.Fatal(err)
	}
	defer s.End(broker.EndFault)
	if ms, _ := s.Take(nil, 1<<20); len(ms) != n {
		f.Errorf("the reader gets %d messages, want %d", len(ms), n)
	}
}

func TestAWriteThatFailsIsNotThere(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Process)
		f.write(nil)
		f.folder.failWith(func(operation, _ string) error {
			if operation == "write" || operation == "create" {
				return errors.New("short write")
			}
			return nil
		})
		f.write(broker.ErrStorage)
		f.write(broker.ErrStorage)
		f.has(f.broker)
		f.recovers()
	})
}

func TestAFolderThatVanishesIsMadeAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Process)
		f.write(nil)
		time.Sleep(2 * retryInterval)
		f.folder.mu.Lock()
		f.folder.files = map[string]*testFile{}
		f.folder.mu.Unlock()
		f.folder.failWith(func(operation, _ string) error {
			if operation == "create" {
				return syscall.EROFS
			}
			return nil
		})
		time.Sleep(2 * retryInterval)
		f.write(broker.ErrStorage)
		f.recovers()
	})
}

// TestAFileThatIsCutOffDoesNotEndTheProcess: its memory cannot be written any more.
func TestAFileThatIsCutOffDoesNotEndTheProcess(t *testing.T) {
	path := t.TempDir()
	b := Open(Options{Path: path, segment: smallSegment})
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a, err := b.Create(t.Context(), "agent", brokerfixture.Limits)
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(path, "*.journal"))
	if err != nil {
		t.Fatal(err)
	}
	before := headOf(b)
	for _, name := range names {
		if err := os.Truncate(name, 0); err != nil && !errors.Is(err, fs.ErrNotExist) { // a prepared one may be gone by now
			t.Fatal(err)
		}
	}
	// A write notices it, or a sync does so before.
	until(t, "the log has begun anew", func() bool {
		err := b.Publish(t.Context(), a.Producer, brokerfixture.Message(t), brokerfixture.Limits)
		if err != nil && !errors.Is(err, broker.ErrStorage) {
			t.Fatal(err)
		}
		return err == nil && headOf(b) != before
	})
	if b.Healthy() != nil {
		t.Errorf("the health is %v", b.Healthy())
	}
}

// headOf returns the place of the segment that is written.
func headOf(b *Broker) (sequence uint64) {
	b.log.locked(func() { sequence = b.log.head.sequence })
	return sequence
}

func TestAFolderHasOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	b := Open(Options{Path: path, segment: smallSegment})
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	other := Open(Options{Path: path, segment: smallSegment})
	defer other.Close()
	if err := other.Start(t.Context()); err == nil || !strings.Contains(err.Error(), path+" is in use by this process already") {
		t.Errorf("error %v", err)
	}
	if err := os.WriteFile(filepath.Join(path, lockName), []byte("process 7 on elsewhere\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := other.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "is in use by process 7 on elsewhere: stop that one") {
		t.Errorf("error %v", err)
	}
}

// TestWritersThatWaitForASegmentFindRoom: those that go on first take the room that is left in the segment before.
func TestWritersThatWaitForASegmentFindRoom(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := newFaulty(t, Process)
		l := f.broker.log
		for free := l.size; free > l.reserve(); l.locked(func() { free = l.free() }) {
			f.write(nil)
		}
		synctest.Wait()
		l.mu.Lock()
		next := l.next
		l.next, l.preparing = nil, true // as if it took long to make it
		l.mu.Unlock()
		var writers sync.WaitGroup
		for range 100 { // which is more than there is room for
			writers.Go(func() { _, _ = f.broker.Create(t.Context(), strings.Repeat("a", 200), brokerfixture.Limits) })
		}
		synctest.Wait()
		l.locked(func() {
			l.next, l.preparing = next, false
			l.prepared.Broadcast()
		})
		writers.Wait()
		f.has(f.broker)
		l.locked(func() {
			if l.head != next {
				t.Error("the writers have found room in the segment before")
			}
		})
	})
}
